"""The preallocated buffer of one message: a header and all tensors of a boundary."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgecompile.contract.plan import TensorSpec
from edgecompile.execution.message_layout import ALIGN_BYTES, HEADER_BYTES, pieces

__all__ = ["END", "Header", "Layout", "Slot"]

HEADER = struct.Struct("<16sQII")
END = 1
"""Flag: no more messages; the tensors have no meaning."""


@dataclass(frozen=True)
class Header:
    plan_id: bytes
    sequence: int
    num_valid: int
    """Items of the microbatch that are real; the rest repeats one of them."""
    flags: int

    @property
    def end(self) -> bool:
        return bool(self.flags & END)


class Layout:
    """Where each tensor of a boundary lies in the buffer, and how the buffer is cut into pieces for the wire."""

    def __init__(self, specs: tuple[TensorSpec, ...], plan_id: bytes) -> None:
        """`plan_id`: the first 16 bytes of the plan's sha256, in every header."""
        self.specs = specs
        self.plan_id = plan_id
        self.offsets: list[int] = []
        position = HEADER_BYTES
        for spec in specs:
            self.offsets.append(position)
            position += -(-spec.num_bytes // ALIGN_BYTES) * ALIGN_BYTES
        self.num_bytes = position
        self.pieces = pieces(position)


class Slot:
    """One buffer, allocated once; its tensors are views of it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
        self.pieces = [self.buffer[begin:end] for begin, end in layout.pieces]
        self.tensors = [
            self.buffer[offset : offset + spec.num_bytes].view(getattr(torch, spec.dtype)).view(spec.shape)
            for spec, offset in zip(layout.specs, layout.offsets, strict=True)
        ]
        self._header = memoryview(self.buffer[:HEADER_BYTES].numpy())  # type: ignore[arg-type]

    def fill(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copies one tensor for each of the layout's, and keeps none of them alive."""
        for tensor, view in zip(tensors, self.tensors, strict=True):
            view.copy_(tensor)

    def write_header(self, sequence: int, num_valid: int, flags: int = 0) -> None:
        HEADER.pack_into(self._header, 0, self.layout.plan_id, sequence, num_valid, flags)

    def read_header(self) -> Header:
        return Header(*HEADER.unpack_from(self._header))

    def named(self) -> dict[str, torch.Tensor]:
        return {spec.name: tensor for spec, tensor in zip(self.layout.specs, self.tensors, strict=True)}
