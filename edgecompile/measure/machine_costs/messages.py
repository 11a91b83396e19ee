"""Measures over loopback the CPU time of sending and receiving, and the memory of a rank's process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edgecompile.contract.errors import UserError
from edgecompile.execution import torchscript
from edgecompile.measure.machine_costs.item_costs import measure_items, measure_text
from edgecompile.profile.profile_file import Cost, Messages

__all__ = ["affine", "measure_messages"]

_SIZES = (4 << 10, 256 << 10, 2 << 20, 8 << 20)
_DEADLINE_S = 600


def measure_messages(threads: int, deadline_s: float = _DEADLINE_S) -> tuple[Messages, int]:
    """The costs of messages, and the bytes of a rank without weights and activations.

    Raises:
        UserError: the two processes do not come to a good end, or not by the deadline.
    """
    with tempfile.TemporaryDirectory(prefix="edgeprofile-") as folder:
        module = Path(folder, "module.pt")
        _write_module(module)
        sender, receiver = _exchange(threads, module, deadline_s)
    costs = Messages(
        send=_cpu_cost(sender["cpu_s"]), receive=_cpu_cost(receiver["cpu_s"]), item_cpu_s=measure_items(),
        text=measure_text(),
    )  # fmt: skip
    return costs, max(sender["runtime_bytes"], receiver["runtime_bytes"])


def _write_module(path: Path) -> None:
    """A small module, which a process has only to load, as a rank does: tracing would take memory of its own."""
    traced = torchscript.trace(torch.nn.Linear(64, 64).eval(), torch.zeros(8, 64))
    torchscript.save(torchscript.freeze(traced), str(path))


def _exchange(threads: int, module: Path, deadline_s: float) -> list[dict[str, Any]]:
    """What both processes tell."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "edgecompile.measure.machine_costs.peer"]
    environ = os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"}
    peers = [
        subprocess.Popen(
            [*command, str(rank), str(port), str(threads), str(module), *map(str, _SIZES)],
            stdout=subprocess.PIPE,
            env=environ,
            start_new_session=True,
        )
        for rank in range(2)
    ]
    try:
        texts = [peer.communicate(timeout=deadline_s)[0] for peer in peers]
    except subprocess.TimeoutExpired:
        raise UserError(
            f"two processes did not exchange messages on 127.0.0.1 within {deadline_s:g} s: is the machine overloaded?"
        ) from None
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()
    failed = [peer.returncode for peer in peers if peer.returncode]
    if failed:
        raise UserError(f"a process that was to exchange messages on 127.0.0.1 ended with status {failed[0]}")
    return [json.loads(text) for text in texts]


def _cpu_cost(cpu_s: Sequence[float]) -> Cost:
    fixed_s, each_s = affine(_SIZES, cpu_s)
    return Cost(fixed_cpu_s=fixed_s, each_cpu_s=each_s)


def affine(counts: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Seconds a call and each, neither below 0, that come closest relative to what was measured."""
    weights = [1 / max(value, 1e-12) ** 2 for value in seconds]
    total = sum(weights)
    mean_count = sum(weight * count for weight, count in zip(weights, counts, strict=True)) / total
    mean_s = sum(weight * value for weight, value in zip(weights, seconds, strict=True)) / total
    spread = sum(weight * (count - mean_count) ** 2 for weight, count in zip(weights, counts, strict=True))
    together = sum(
        weight * (count - mean_count) * (value - mean_s)
        for weight, count, value in zip(weights, counts, seconds, strict=True)
    )
    each_s = max(0.0, together / spread) if spread else 0.0
    fixed_s = mean_s - each_s * mean_count
    return (fixed_s, each_s) if fixed_s >= 0 else (0.0, mean_s / mean_count)
