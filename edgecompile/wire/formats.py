"""The wire formats: their names, sizes and costs.

Floats of 32 bits are encoded, but for masks and the like (exact_tensors.py); all other tensors pass unchanged. Integer
formats store codes of `bits` bits with an offset and a step for each item, or for each item and channel (the last
dimension) where its codes outweigh these.
Where few bits are left, `clipping` spends them better than between the least and the largest value: an item's outliers
are clipped where that lowers the error, at the analytic optimum for a Laplace distribution (Banner, Nahshan, Soudry,
"Post training 4-bit quantization of convolutional networks for rapid-deployment", NeurIPS 2019). A channel's are not:
there they are whole tokens, such as the class token or the words among padding, and these are what counts. With two
bits its levels are fitted to its values instead (codec.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from edgecompile.config.cluster_spec import Device
from edgecompile.config.methods import WireScale
from edgecompile.config.request import WireRequest
from edgecompile.contract.closed_sets import WireName
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import TensorSpec
from edgecompile.frontend.chain.units import Boundary, BoundaryTensor

__all__ = [
    "FORMATS",
    "WireFormat",
    "check_per_cut",
    "cut_formats",
    "decode_s",
    "encode_s",
    "is_encoded",
    "items_first",
    "may_clip",
    "varying_axis",
    "wire_bytes",
    "wire_format",
    "wire_tensors",
]

T = TypeVar("T")


_SCALE_BITS = 64
"""An offset and a step."""


@dataclass(frozen=True, kw_only=True)
class WireFormat:
    name: str
    bits: int
    by_channel: bool = False
    """Integer formats: one offset and step for each channel of an item, not for the whole item."""
    clipping: bool = True
    """Integer formats: whether to spend few bits better than between the least and the largest value."""

    @property
    def lossless(self) -> bool:
        return self.name == "fp32"

    @property
    def rounding(self) -> float:
        """What encoding changes a value by, at most, relative to the largest one, but for what clipping cuts off."""
        floats = {"fp32": 0.0, "fp16": 2.0**-11, "bf16": 2.0**-8}
        return floats[self.name] if self.name in floats else 1 / float((1 << self.bits) - 1)

    @property
    def is_integer(self) -> bool:
        return self.name.startswith("int")

    def num_groups(self, shape: Sequence[int]) -> int:
        """How many offsets and steps an item of a tensor of this shape (with its batch dimension) has.

        One for each channel only where its codes are at least as many bytes: with fewer values, more bits for the
        whole item would travel sooner and lose less.
        """
        worth_it = math.prod(shape[1:-1]) * self.bits >= _SCALE_BITS
        return shape[-1] if self.by_channel and worth_it else 1

    def clips(self, num_groups: int) -> bool:
        """Whether outliers may be clipped: at 8 bits the optimum lies so far out that it only hurts them."""
        return self.clipping and self.bits < 8 and num_groups == 1

    def fits(self, num_groups: int) -> bool:
        """Whether the levels of each channel are fitted to its values."""
        return self.clipping and self.bits == 2 and num_groups > 1


_BITS = {
    WireName.FP32: 32,
    WireName.FP16: 16,
    WireName.BF16: 16,
    WireName.INT8: 8,
    WireName.INT6: 6,
    WireName.INT4: 4,
    WireName.INT2: 2,
}
FORMATS: Mapping[str, WireFormat] = {name.value: WireFormat(name=name.value, bits=_BITS[name]) for name in WireName}


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """Memory traffic in bytes for each element, and how many operators: counted from what codec.py emits."""

    bytes_each: float
    num_operators: int

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(
            bytes_each=self.bytes_each + other.bytes_each, num_operators=self.num_operators + other.num_operators
        )


_ENCODE = {
    "fp16": _Cost(bytes_each=14, num_operators=2),
    "bf16": _Cost(bytes_each=6, num_operators=1),
    "int8": _Cost(bytes_each=37, num_operators=11),
    "int6": _Cost(bytes_each=44, num_operators=22),
    "int4": _Cost(bytes_each=39.5, num_operators=13),
    "int2": _Cost(bytes_each=41, num_operators=17),
}
_CLIP = _Cost(bytes_each=60, num_operators=26)
_FIT = _Cost(bytes_each=209, num_operators=65)
_DECODE = {
    "fp16": _Cost(bytes_each=6, num_operators=1),
    "bf16": _Cost(bytes_each=6, num_operators=1),
    "int8": _Cost(bytes_each=21, num_operators=3),
    "int6": _Cost(bytes_each=28.5, num_operators=14),
    "int4": _Cost(bytes_each=25, num_operators=6),
    "int2": _Cost(bytes_each=26, num_operators=10),
}


def wire_format(name: str, scale: str = "item", clipping: bool = True) -> WireFormat:
    """The format of this name, with its options."""
    return replace(FORMATS[name], by_channel=WireScale(scale) is WireScale.CHANNEL, clipping=clipping)


def check_per_cut(names: Sequence[str], num_cuts: int) -> None:
    """Raises UserError where formats are given one by one, for more or fewer cuts than there are."""
    if names and len(names) != num_cuts:
        raise UserError(f"{list(names)} names {len(names)} formats, but there are {num_cuts} cuts", key="wire.per_cut")


def cut_formats(wire: WireRequest, num_cuts: int) -> list[WireFormat]:
    """The format of each cut between stages. Raises UserError as check_per_cut does."""
    names = [name.value for name in wire.per_cut]
    check_per_cut(names, num_cuts)
    return [wire_format(name, wire.scale, wire.clipping) for name in names or [wire.format.value] * num_cuts]


def is_encoded(tensor: BoundaryTensor, wire: WireFormat) -> bool:
    """Not without an axis of items: one scale for several would let them influence each other.

    Nor in an integer format where an item's codes would be another number of bytes than its extents tell.
    """
    has_items = tensor.item_axis is not None or (bool(tensor.shape) and not wire.is_integer)
    if wire.is_integer and has_items and not _follows(tensor, wire):
        return False
    return tensor.dtype == "float32" and not tensor.exact and not wire.lossless and has_items


def varying_axis(tensor: BoundaryTensor) -> int | None:
    """The axis of an item, as it is encoded, whose extent varies; the first of several; None where none does."""
    dims = _items_first(tensor.dims, tensor.item_axis)[1:]
    return next((axis for axis, text in enumerate(dims) if text is not None), None)


def _follows(tensor: BoundaryTensor, wire: WireFormat) -> bool:
    """Whether one axis of an item varies at most, and its extent gives the bytes of the codes without rounding up."""
    axis = varying_axis(tensor)
    if axis is None:
        return True
    _, *item = items_first(tensor)
    others = [extent for place, extent in enumerate(item) if place != axis]
    alone = all(text is None for text in _items_first(tensor.dims, tensor.item_axis)[axis + 2 :])
    is_channel = axis == len(item) - 1 and wire.num_groups(items_first(tensor)) > 1
    return alone and not is_channel and math.prod(others) % _planes(wire.bits) == 0


def items_first(tensor: BoundaryTensor) -> tuple[int, ...]:
    """The shape in which it is encoded: an offset and a step belong to an entry of the first axis."""
    return _items_first(tensor.shape, tensor.item_axis)


def _items_first(values: tuple[T, ...], item_axis: int | None) -> tuple[T, ...]:
    axis = item_axis or 0
    return (*values[axis : axis + 1], *values[:axis], *values[axis + 1 :])


def may_clip(wire: WireFormat, num_groups: int) -> bool:
    """Whether its `clipping` makes a difference."""
    clipping = replace(wire, clipping=True)
    return wire.is_integer and (clipping.clips(num_groups) or clipping.fits(num_groups))


def wire_tensors(tensor: BoundaryTensor, wire: WireFormat) -> tuple[TensorSpec, ...]:
    """What travels for one tensor: itself, or its encoded parts."""
    if not is_encoded(tensor, wire):
        return (TensorSpec(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, dims=tensor.dims),)
    if not wire.is_integer:
        dtype = {"fp16": "float16", "bf16": "bfloat16"}[wire.name]
        dims = _items_first(tensor.dims, tensor.item_axis)
        return (TensorSpec(name=tensor.name, shape=items_first(tensor), dtype=dtype, wire=wire.name, dims=dims),)
    items, *item = items_first(tensor)
    num_codes, groups = math.prod(item), wire.num_groups(items_first(tensor))
    code_bytes = packed_bytes(num_codes, wire.bits)
    code_dims: tuple[str | None, ...] = ()
    scale_dims: tuple[str | None, ...] = ()
    if tensor.dims:
        of_items, *own = _items_first(tensor.dims, tensor.item_axis)
        axis = varying_axis(tensor)
        others = math.prod(extent for place, extent in enumerate(item) if place != axis)
        text = None if axis is None else _times(own[axis] or "", packed_bytes(others, wire.bits))
        code_dims, scale_dims = (of_items, text), (of_items, None, None)
    return (
        TensorSpec(name=f"{tensor.name}.codes", shape=(items, code_bytes), dtype="uint8", wire=wire.name,
                   dims=code_dims),
        TensorSpec(name=f"{tensor.name}.scale", shape=(items, 2, groups), dtype="float32", wire=wire.name,
                   dims=scale_dims),
    )  # fmt: skip


def _times(dims: str, factor: int) -> str:
    """Of an axis such as `length+1`, so many times it: `8*length+8`."""
    terms = []
    for term in dims.split("+"):
        parts = term.split("*")
        number = factor * math.prod(int(part) for part in parts if part.isdigit())
        names = [part for part in parts if not part.isdigit()]
        terms.append("*".join([*([str(number)] if number != 1 or not names else []), *names]))
    return "+".join(terms)


def _planes(bits: int) -> int:
    """So many codes at a time fill whole bytes."""
    return {8: 1, 6: 4, 4: 2, 2: 4}[bits]


def packed_bytes(num_codes: int, bits: int) -> int:
    """Bytes for so many codes, packed in planes of equal length."""
    bytes_for_planes = {8: 1, 6: 3, 4: 1, 2: 1}[bits]
    return -(-num_codes // _planes(bits)) * bytes_for_planes


def wire_bytes(boundary: Boundary, wire: WireFormat) -> int:
    """Bytes of one microbatch at this boundary in this format; as they are in memory, where it cannot be cut."""
    if not boundary.cuttable:
        return boundary.num_bytes
    return sum(spec.num_bytes for tensor in boundary.tensors for spec in wire_tensors(tensor, wire))


def encode_s(boundary: Boundary, wire: WireFormat, device: Device) -> float:
    """Seconds that the sending stage takes to encode this boundary."""
    return sum(_seconds(tensor, _encode_cost(tensor, wire), device) for tensor in _encoded(boundary, wire))


def decode_s(boundary: Boundary, wire: WireFormat, device: Device) -> float:
    """Seconds that the receiving stage takes to decode this boundary."""
    return sum(_seconds(tensor, _DECODE[wire.name], device) for tensor in _encoded(boundary, wire))


def _encoded(boundary: Boundary, wire: WireFormat) -> list[BoundaryTensor]:
    return [tensor for tensor in boundary.tensors if is_encoded(tensor, wire)]


def _encode_cost(tensor: BoundaryTensor, wire: WireFormat) -> _Cost:
    cost, groups = _ENCODE[wire.name], wire.num_groups(items_first(tensor))
    if wire.is_integer and wire.clips(groups):
        return cost + _CLIP
    return cost + _FIT if wire.is_integer and wire.fits(groups) else cost


def _seconds(tensor: BoundaryTensor, cost: _Cost, device: Device) -> float:
    traffic_s = math.prod(tensor.shape) * cost.bytes_each / device.memory_bytes_per_s
    return traffic_s + cost.num_operators * device.launch_s
