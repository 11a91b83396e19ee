"""The preallocated buffer of one message: a header and all tensors of a boundary."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from edgecompile.contract.dim_rules import BATCH, MOST_DIMS
from edgecompile.contract.plan import Dim, TensorSpec
from edgecompile.execution.message_layout import ALIGN_BYTES, HEADER_BYTES, pieces
from edgelaunch.common.varying import Sizes

__all__ = ["END", "Header", "Layout", "Placing", "Slot"]

HEADER = struct.Struct(f"<16sQII{MOST_DIMS}I")
END = 1
"""Flag: no more messages; the tensors have no meaning."""
MOST_KEPT = 256
"""Sizes whose placing, and whose views of a buffer, are kept."""


@dataclass(frozen=True)
class Header:
    plan_id: bytes
    sequence: int
    num_valid: int
    """Items of the microbatch that are real; the rest repeats one of them."""
    flags: int
    sizes: Sizes

    @property
    def end(self) -> bool:
        return bool(self.flags & END)


@dataclass(frozen=True)
class Placing:
    """Where each tensor of a message lies in its buffer, and how that is cut into pieces for the wire."""

    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    num_bytes: int
    pieces: list[tuple[int, int]]
    """Those of smaller sizes begin where the largest's do."""


class Layout:
    """Of the messages at a boundary: the tensors lie without gaps at the sizes of each message."""

    def __init__(self, specs: tuple[TensorSpec, ...], plan_id: bytes, dims: Mapping[str, Dim] | None = None) -> None:
        """`plan_id`: the first 16 bytes of the plan's sha256, in every header. `dims`: the plan's."""
        self.specs = specs
        self.plan_id = plan_id
        self.dims = self._dims = dims or {}
        self._kept: dict[Sizes, Placing] = {}
        self.largest_sizes: Sizes = tuple(dim.max for dim in self._dims.values())
        self.largest = self.at(self.largest_sizes)
        """For which buffers have room."""

    def at(self, sizes: Sizes) -> Placing:
        """The place of everything in a message of these sizes."""
        found = self._kept.get(sizes)
        if found is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            found = self._kept[sizes] = self._place(sizes)
        return found

    def _place(self, sizes: Sizes) -> Placing:
        by_name = dict(zip(self._dims, sizes, strict=True))
        shapes = tuple(spec.shape_at(by_name) for spec in self.specs)
        offsets, position = [], HEADER_BYTES
        for spec, shape in zip(self.specs, shapes, strict=True):
            offsets.append(position)
            position += -(-num_bytes_of(spec, shape) // ALIGN_BYTES) * ALIGN_BYTES
        return Placing(shapes, tuple(offsets), position, pieces(position))

    def misfit(self, header: Header) -> str | None:
        """What of a message's sizes is none that the plan has, in words."""
        for (name, dim), size in zip(self._dims.items(), header.sizes, strict=True):
            if not dim.min <= size <= dim.max:
                return f"{name} {size}, the plan has {dim.min} to {dim.max}"
        if self._dims and not 1 <= header.num_valid <= header.sizes[list(self._dims).index(BATCH)]:
            return f"{header.num_valid} items in a message of {dict(zip(self._dims, header.sizes, strict=True))}"
        return None


def num_bytes_of(spec: TensorSpec, shape: Sequence[int]) -> int:
    size: int = getattr(torch, spec.dtype).itemsize
    for extent in shape:
        size *= extent
    return size


class Slot:
    """One buffer, allocated once at the largest sizes; its tensors are views of it, at the sizes of its message."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        # page-locked where this rank computes on a GPU, which then copies from and to it by itself
        on_gpu: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self.buffer = torch.zeros(layout.largest.num_bytes, dtype=torch.uint8, pin_memory=on_gpu)
        self._header = memoryview(self.buffer[:HEADER_BYTES].numpy())  # type: ignore[arg-type]
        self._kept: dict[Sizes, tuple[list[torch.Tensor], list[torch.Tensor], int]] = {}
        self._unused = (0,) * (MOST_DIMS - len(layout.largest_sizes))
        self.sizes: Sizes = layout.largest_sizes
        self.num_bytes = layout.largest.num_bytes
        """Of the message."""
        self.tensors: list[torch.Tensor] = []
        self.pieces: list[torch.Tensor] = []
        """Of the message; the last one is shorter than the buffer's own where the message ends in it."""
        self.resize(self.sizes)
        self.all_pieces = self.pieces
        """Of the buffer."""

    def resize(self, sizes: Sizes) -> None:
        """What it holds from now on has these sizes. What was in it has no meaning."""
        found = self._kept.get(sizes)
        if found is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            found = self._kept[sizes] = self._views(self.layout.at(sizes))
        self.sizes = sizes
        self.tensors, self.pieces, self.num_bytes = found

    def _views(self, placing: Placing) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
        places = zip(self.layout.specs, placing.shapes, placing.offsets, strict=True)
        tensors = [
            self.buffer[offset : offset + num_bytes_of(spec, shape)].view(getattr(torch, spec.dtype)).view(shape)
            for spec, shape, offset in places
        ]
        return tensors, [self.buffer[begin:end] for begin, end in placing.pieces], placing.num_bytes

    def fill(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copies one tensor for each of the layout's, and keeps none of them alive."""
        for tensor, view in zip(tensors, self.tensors, strict=True):
            view.copy_(tensor)

    def write_header(self, sequence: int, num_valid: int, flags: int = 0) -> None:
        HEADER.pack_into(self._header, 0, self.layout.plan_id, sequence, num_valid, flags, *self.sizes, *self._unused)

    def read_header(self) -> Header:
        plan_id, sequence, num_valid, flags, *sizes = HEADER.unpack_from(self._header)
        return Header(plan_id, sequence, num_valid, flags, tuple(sizes[: len(self.sizes)]))

    def named(self) -> dict[str, torch.Tensor]:
        return {spec.name: tensor for spec, tensor in zip(self.layout.specs, self.tensors, strict=True)}
