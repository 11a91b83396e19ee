"""Encoding and decoding a boundary in every wire format: milliseconds an item in one thread, and what is lost.

    python benchmarks/wire.py

The same operators that the compiler writes into shards, traced and frozen as in a shard. The boundary is random, with a
few channels of large values, as transformers have them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgecompile.execution import torchscript
from edgecompile.wire.codec import decode_tensor, encode_tensor
from edgecompile.wire.formats import FORMATS, WireFormat, wire_format

TARGET_MS = {"int8": 0.6, "int4": 1.5}


class Encode(nn.Module):
    def __init__(self, shape: tuple[int, ...], wire: WireFormat) -> None:
        super().__init__()
        self.shape, self.wire = shape, wire

    def forward(self, value: torch.Tensor) -> Any:
        return tuple(encode_tensor(value, self.shape, self.wire))


class Decode(Encode):
    def forward(self, *parts: torch.Tensor) -> Any:
        return decode_tensor(parts, self.shape, self.wire)


def boundary(shape: tuple[int, ...]) -> torch.Tensor:
    """Normal values; one channel in a hundred is twenty times as large."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator)
    values[..., ::100] *= 20
    return values


def frozen(module: nn.Module, examples: tuple[torch.Tensor, ...]) -> Any:
    return torchscript.freeze(torchscript.trace(module.eval(), examples))


def median_ms(works: list[Callable[[], object]], repeat: int) -> list[float]:
    """Of each, in turns, so that all of them meet the same disturbances."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(repeat + 20):
        for work, series in zip(works, times, strict=True):
            begin = time.perf_counter()
            work()
            if number >= 20:
                series.append(time.perf_counter() - begin)
    return [statistics.median(series) * 1e3 for series in times]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[197, 768], help="of one item")
    parser.add_argument("--microbatch", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = (args.microbatch, *args.shape)
    value = boundary(shape)
    print(f"boundary {' x '.join(map(str, shape))} fp32, 1 thread; milliseconds an item, medians of {args.repeat}")
    print(f"{'format':8} {'scale':8} {'encode':>8} {'decode':>8} {'both':>8} {'target':>8}  {'bytes':>8} {'error':>9}")
    formats = [(name, scale) for name in FORMATS if name != "fp32" for scale in ("item", "channel")
               if FORMATS[name].is_integer or scale == "item"]  # fmt: skip
    with torch.inference_mode():
        for name, scale in formats:
            tell(name, scale, value, args.repeat)
    return 0


def tell(name: str, scale: str, value: torch.Tensor, repeat: int) -> None:
    """Prints one format's row; the error is the norm of what is lost over the norm of the boundary."""
    shape, wire = tuple(value.shape), wire_format(name, scale)
    encode = frozen(Encode(shape, wire), (value,))
    parts = encode(value)
    decode = frozen(Decode(shape, wire), parts)
    error = float((decode(*parts) - value).norm() / value.norm())
    encode_ms, decode_ms = (ms / shape[0] for ms in median_ms([lambda: encode(value), lambda: decode(*parts)], repeat))
    both_ms, target = encode_ms + decode_ms, TARGET_MS.get(name)
    num_bytes = sum(part.numel() * part.element_size() for part in parts) // shape[0]
    late = target is not None and both_ms > target
    print(f"{name:8} {scale if wire.is_integer else '-':8} {encode_ms:8.3f} {decode_ms:8.3f} {both_ms:8.3f} "
          f"{target if target is not None else '-':>8}  {num_bytes:8} {error:9.2e}{'  MISSED' if late else ''}",
          flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
