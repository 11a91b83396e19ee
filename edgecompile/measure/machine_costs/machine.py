"""Describes this machine and measures its matrix product rate and memory bandwidth."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from edgecompile.profile.profile_file import Cost, MachineInfo, Rates

__all__ = ["available_cores", "machine_info", "measure_rates"]

_EXTENT = 1024
_COPY_BYTES = 64 << 20
_LEAST_RUNS = 3
_MOST_S = 2.0


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_info(device: str) -> MachineInfo:
    return MachineInfo(
        name=platform.node(),
        processor=_processor() if device == "cpu" else torch.cuda.get_device_name(),
        cores=available_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        architecture=platform.machine(),
        system=platform.platform(),
    )


def _processor() -> str:
    """The processor's name, or on boards that do not give one, the board's."""
    for path, keys in (("/proc/cpuinfo", ("model name", "Model")), ("/proc/device-tree/model", ())):
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if not keys:
            return text.strip("\0 \n")
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key.strip() in keys and value.strip():
                return value.strip()
    return platform.processor() or "unknown"


def measure_rates(device: str) -> Rates:
    """Floating-point operations a second of a large matrix product, bytes a second of a copy (read and written)."""
    left, right = (torch.rand(_EXTENT, _EXTENT, device=device) for _ in range(2))
    source = torch.zeros(_COPY_BYTES // 4, device=device)
    target = torch.ones_like(source)
    product, copying = torch.empty_like(left), _median(lambda: target.copy_(source), device)
    multiplying = _median(lambda: torch.mm(left, right, out=product), device)
    return Rates(
        matrix_flops_per_s=2 * _EXTENT**3 / multiplying.each_s,
        memory_bytes_per_s=2 * _COPY_BYTES / copying.each_s,
        pack=Cost(each_s=copying.each_s / _COPY_BYTES, each_cpu_s=copying.each_cpu_s / _COPY_BYTES),
    )


def _median(work: Callable[[], object], device: str) -> Cost:
    """Seconds and CPU seconds of one run."""
    walls, cpus = [], []
    begin_s = time.perf_counter()
    for number in range(32):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if number:
            walls.append(time.perf_counter() - start_s)
            cpus.append(time.process_time() - start_cpu_s)
        if len(walls) >= _LEAST_RUNS and time.perf_counter() - begin_s > _MOST_S:
            break
    return Cost(each_s=statistics.median(walls), each_cpu_s=statistics.median(cpus))
