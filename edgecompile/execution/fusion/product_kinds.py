"""The kinds of products that native code computes: of which operator, and how their weights lie in memory.

Of each, what rows become before they are multiplied, and by which instructions, is told in products8.hpp and
products4.hpp.
"""

from __future__ import annotations

import contextlib
import mmap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgecompile.execution.fusion.native_code import native, native_runs

__all__ = ["EIGHT_BITS", "FOUR_BITS", "KINDS", "Codes", "Kind", "PackedWeights", "WeightRoom"]


@dataclass(frozen=True)
class Codes:
    """The weights of a product as its operator takes them."""

    codes: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None = None
    """(out,)."""


@dataclass(frozen=True)
class PackedWeights:
    """The weights of a product as native code takes them."""

    native: Any
    out: int
    into: int
    kept: tuple[torch.Tensor, ...]
    """What native code reads."""


class Kind(ABC):
    """Weights of some kind; activations are float32."""

    operator: str
    """Of a graph: activations, codes, scale and bias give a product."""

    @abstractmethod
    def runs(self) -> bool:
        """Whether native code is to compute such products on this rank."""

    @abstractmethod
    def takes(self, codes: torch.Tensor) -> bool:
        """Whether it knows products of this shape."""

    @abstractmethod
    def shape(self, codes: torch.Tensor) -> tuple[int, int]:
        """How many channels a product has, and inputs."""

    @abstractmethod
    def packed_size(self, out: int, into: int) -> int:
        """In bytes."""

    @abstractmethod
    def pack(self, products: Sequence[Codes], place: torch.Tensor) -> PackedWeights:
        """One product with the channels of several, all with a bias or all without; nothing of them is kept.

        Args:
            place: packed_size bytes, of the channels of all.
        """


class _EightBits(Kind):
    """Codes of 8 bits with a scale for each channel; rows become codes of 8 bits, too, when they are there.

    Codes are (out, in), int8, from -127 to 127, the scale (out,), float32. On one thread native code beats FBGEMM and
    oneDNN by a third, for one row and for many (AMD EPYC of the Zen 4 generation).
    """

    operator = "edgecompile::linear_int8"

    def runs(self) -> bool:
        return native_runs() and bool(native.product_instructions())

    def takes(self, codes: torch.Tensor) -> bool:
        return codes.dim() == 2 and len(codes) > 0 and 0 < codes.shape[1] <= int(native.most_summed)

    def shape(self, codes: torch.Tensor) -> tuple[int, int]:
        return codes.shape[0], codes.shape[1]

    def packed_size(self, out: int, into: int) -> int:
        return int(native.packed_size8(out, into))

    def pack(self, products: Sequence[Codes], place: torch.Tensor) -> PackedWeights:
        out = 0
        for product in products:
            own, into = self.shape(product.codes)
            native.pack8(product.codes.contiguous().data_ptr(), own, into, out, place.data_ptr())
            out += own
        scale, bias = torch.cat([product.scale for product in products]).to(torch.float32), _bias(products)
        made = native.eight_bits(place.data_ptr(), scale.data_ptr(), _address(bias), out, into)
        return PackedWeights(made, out, into, (place, scale, *([] if bias is None else [bias])))


class _FourBits(Kind):
    """Codes of 4 bits with a scale and a zero for each 32 inputs; rows are rounded to bf16, and so are results.

    Codes are (out, in / 2), uint8, two of 4 bits, the first in the lower half, scales (in / 32, out, 2), bf16.
    """

    operator = "edgecompile::linear_weights4"

    def runs(self) -> bool:
        return native_runs()

    def takes(self, codes: torch.Tensor) -> bool:
        return codes.dim() == 2 and codes.numel() > 0

    def shape(self, codes: torch.Tensor) -> tuple[int, int]:
        return codes.shape[0], 2 * codes.shape[1]

    def packed_size(self, out: int, into: int) -> int:
        return int(native.packed_size4(out, into))

    def pack(self, products: Sequence[Codes], place: torch.Tensor) -> PackedWeights:
        out = 0
        for product in products:
            own, into = self.shape(product.codes)
            codes, scale = product.codes.contiguous(), product.scale.contiguous()
            native.pack4(codes.data_ptr(), scale.data_ptr(), own, into, out, place.data_ptr())
            out += own
        bias = _bias(products)
        made = native.four_bits(place.data_ptr(), _address(bias), out, into)
        return PackedWeights(made, out, into, (place, *([] if bias is None else [bias])))


EIGHT_BITS, FOUR_BITS = _EightBits(), _FourBits()
KINDS: tuple[Kind, ...] = (EIGHT_BITS, FOUR_BITS)


def _bias(products: Sequence[Codes]) -> torch.Tensor | None:
    biases = [product.bias for product in products if product.bias is not None]
    return torch.cat(biases).to(torch.float32) if biases else None


def _address(values: torch.Tensor | None) -> int:
    return 0 if values is None else values.data_ptr()


_PAGE_BYTES, _LINE_BYTES = 1 << 21, 64


class WeightRoom:
    """Room for the weights of a stage as native code reads them, one behind the other, in pages of 2 MiB.

    Where the system has them: a step of one token reads all weights, and in a virtual machine 4 KiB pages take longer
    to find than to read (5.5 ms against 3.5 for SmolLM2's layers in 8 bits, AMD EPYC).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        """
        Args:
            sizes: of what will be taken, in bytes.
        """
        num_bytes = sum(_whole_lines(size) for size in sizes)
        whole = mmap.mmap(-1, num_bytes + _PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                whole.madvise(mmap.MADV_HUGEPAGE)
        room = torch.frombuffer(whole, dtype=torch.uint8)
        begin = -room.data_ptr() % _PAGE_BYTES
        self._room, self._end = room[begin : begin + num_bytes], 0

    def take(self, size: int) -> torch.Tensor:
        """The next place of so many bytes."""
        begin, self._end = self._end, self._end + _whole_lines(size)
        return self._room[begin : begin + size]


def _whole_lines(size: int) -> int:
    return -(-size // _LINE_BYTES) * _LINE_BYTES
