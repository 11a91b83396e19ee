"""Measures the encoding and decoding time of each wire format."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from edgecompile.artifacts.shards import freeze_module
from edgecompile.frontend.chain.units import Chain
from edgecompile.measure.machine_costs.messages import affine
from edgecompile.profile.profile_file import Cost, WireCost
from edgecompile.wire.codec import decode_tensor, encode_tensor
from edgecompile.wire.formats import FORMATS, WireFormat, may_clip

__all__ = ["measure_wires"]

_MOST_ELEMENTS = 1 << 20
_NUM_RUNS = 7
_ITEMS = (1, 4)
_MANY_GROUPS = 2
"""More than one."""


class _Encode(nn.Module):
    def __init__(self, shape: tuple[int, ...], wire: WireFormat) -> None:
        super().__init__()
        self._shape, self._wire = shape, wire

    def forward(self, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(encode_tensor(value, self._shape, self._wire))


class _Decode(nn.Module):
    def __init__(self, shape: tuple[int, ...], wire: WireFormat) -> None:
        super().__init__()
        self._shape, self._wire = shape, wire

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        return decode_tensor(parts, self._shape, self._wire)


def measure_wires(chain: Chain, microbatch: int, device: str) -> list[WireCost]:
    """Every lossy format, with its variants, at the shape that most boundaries of the model have, one item and four."""
    shape = _usual_shape(chain, microbatch)
    found = []
    counts = [items * torch.Size(shape).numel() for items in _ITEMS]
    for wire in _variants():
        encode, decode = zip(*(_times((items, *shape), wire, device) for items in _ITEMS), strict=True)
        scale = "channel" if wire.by_channel else "item"
        costs = {"encode": _cost(counts, encode), "decode": _cost(counts, decode)}
        found.append(WireCost(format=wire.name, scale=scale, clipping=wire.clipping, **costs))
    return found


def _variants() -> Iterator[WireFormat]:
    """Every lossy format that costs something else than the others."""
    for wire in FORMATS.values():
        for by_channel in (False, True) if wire.is_integer else (False,):
            chosen = replace(wire, by_channel=by_channel)
            if not wire.lossless:
                yield chosen
            if may_clip(wire, _MANY_GROUPS if by_channel else 1):
                yield replace(chosen, clipping=False)


def _usual_shape(chain: Chain, microbatch: int) -> tuple[int, ...]:
    """Of one item."""
    shapes = [
        tensor.shape[1:]
        for boundary in chain.boundaries[1:-1]
        for tensor in boundary.tensors
        if tensor.dtype == "float32" and tensor.shape[:1] == (microbatch,) and len(tensor.shape) > 1
    ]
    shape = statistics.mode(shapes) if shapes else (1024,)
    return shape if torch.Size(shape).numel() <= _MOST_ELEMENTS else (1024, shape[-1])


def _times(shape: tuple[int, ...], wire: WireFormat, device: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Seconds and CPU seconds of encoding, and of decoding, a tensor of this shape."""
    value = torch.randn(shape, device=device)
    encode = freeze_module(_Encode(shape, wire), (value,)).module
    parts = tuple(part.contiguous() for part in encode(value))
    decode = freeze_module(_Decode(shape, wire), parts).module
    return _median(lambda: encode(value), device), _median(lambda: decode(*parts), device)


def _median(work: Callable[[], Any], device: str) -> tuple[float, float]:
    walls, cpus = [], []
    with torch.inference_mode():
        for number in range(2 + _NUM_RUNS):
            begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            if number > 1:
                walls.append(time.perf_counter() - begin_s)
                cpus.append(time.process_time() - begin_cpu_s)
    return statistics.median(walls), statistics.median(cpus)


def _cost(counts: Sequence[int], times: Sequence[tuple[float, float]]) -> Cost:
    fixed_s, each_s = affine(counts, [wall_s for wall_s, _ in times])
    fixed_cpu_s, each_cpu_s = affine(counts, [cpu_s for _, cpu_s in times])
    return Cost(fixed_s=fixed_s, each_s=each_s, fixed_cpu_s=fixed_cpu_s, each_cpu_s=each_cpu_s)
