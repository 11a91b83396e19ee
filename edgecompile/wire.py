"""Wire formats: what a boundary's tensors look like while they travel, how many bytes that is, and what it costs.

Floats of 32 bits are encoded; all other tensors pass unchanged. Integer formats store codes of `bits` bits with an
offset and a step for each item, or for each item and channel (the last dimension). Where few bits are left, outliers
are clipped where that lowers the expected error: the analytic optimum for a Laplace distribution (Banner, Nahshan,
Soudry, "Post training 4-bit quantization of convolutional networks for rapid-deployment", NeurIPS 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgecompile.domain import Device
from edgecompile.errors import UserError, choices
from edgecompile.plan import TensorSpec
from edgecompile.schema import Conf, ScheduleMethod
from edgecompile.units import Boundary, BoundaryTensor

__all__ = [
    "FORMATS",
    "WireFormat",
    "cut_formats",
    "decode_s",
    "encode_s",
    "is_encoded",
    "wire_bytes",
    "wire_format",
    "wire_tensors",
]


@dataclass(frozen=True, kw_only=True)
class WireFormat:
    name: str
    bits: int
    by_channel: bool = False
    """Integer formats: one offset and step for each channel of an item, not for the whole item."""
    clipping: bool = True
    """Integer formats: whether to clip outliers at the analytic optimum."""
    encode_bytes: float
    """Memory traffic of encoding, bytes for each element."""
    decode_bytes: float

    @property
    def lossless(self) -> bool:
        return self.name == "fp32"

    @property
    def is_integer(self) -> bool:
        return self.name.startswith("int")


# Traffic counted from the operators that passes/wire.py emits.
FORMATS: Mapping[str, WireFormat] = {
    item.name: item
    for item in (
        WireFormat(name="fp32", bits=32, encode_bytes=0, decode_bytes=0),
        WireFormat(name="fp16", bits=16, encode_bytes=14, decode_bytes=6),
        WireFormat(name="bf16", bits=16, encode_bytes=6, decode_bytes=6),
        WireFormat(name="int8", bits=8, encode_bytes=42, decode_bytes=13),
        WireFormat(name="int6", bits=6, encode_bytes=52, decode_bytes=20),
        WireFormat(name="int4", bits=4, encode_bytes=46, decode_bytes=17),
        WireFormat(name="int2", bits=2, encode_bytes=48, decode_bytes=19),
    )
}

_NUM_OPERATORS_ENCODE = 10
_NUM_OPERATORS_DECODE = 4


def wire_format(name: str, key: str, scale: str = "item", clipping: bool = True) -> WireFormat:
    """Raises UserError for an unknown name, listing the formats."""
    if name not in FORMATS:
        raise UserError(f"{key}: {name!r} does not do: it must be one of {choices(FORMATS)}")
    if scale not in ("item", "channel"):
        raise UserError(f"wire.scale: {scale!r} does not do: it must be item or channel")
    return replace(FORMATS[name], by_channel=scale == "channel", clipping=clipping)


def cut_formats(conf: Conf, num_cuts: int | None) -> list[WireFormat]:
    """The format of each cut between stages; of any cut, where their number is not known yet (None).

    Raises:
        UserError: an unknown format, or formats for cuts that the schedule is yet to choose.
    """
    names = conf.wire.per_cut
    if names and conf.schedule.method is ScheduleMethod.exact:
        raise UserError("wire.per_cut: schedule=exact chooses the cuts itself: use wire=FORMAT, or give the cuts")
    if names and num_cuts is not None and len(names) != num_cuts:
        raise UserError(f"wire.per_cut: {names} names {len(names)} formats, but there are {num_cuts} cuts")
    chosen = names or [conf.wire.format] * (1 if num_cuts is None else num_cuts)
    key = "wire.per_cut" if names else "wire.format"
    return [wire_format(name, key, conf.wire.scale, conf.wire.clipping) for name in chosen]


def is_encoded(tensor: BoundaryTensor, wire: WireFormat) -> bool:
    return tensor.dtype == "float32" and not wire.lossless


def wire_tensors(tensor: BoundaryTensor, wire: WireFormat) -> tuple[TensorSpec, ...]:
    """What travels for one tensor: itself, or its encoded parts."""
    if not is_encoded(tensor, wire):
        return (TensorSpec(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype),)
    if not wire.is_integer:
        dtype = {"fp16": "float16", "bf16": "bfloat16"}[wire.name]
        return (TensorSpec(name=tensor.name, shape=tensor.shape, dtype=dtype, wire=wire.name),)
    items, num_codes = tensor.shape[0], math.prod(tensor.shape[1:])
    groups = tensor.shape[-1] if wire.by_channel and len(tensor.shape) > 1 else 1
    code_bytes = packed_bytes(num_codes, wire.bits)
    return (
        TensorSpec(name=f"{tensor.name}.codes", shape=(items, code_bytes), dtype="uint8", wire=wire.name),
        TensorSpec(name=f"{tensor.name}.scale", shape=(items, 2, groups), dtype="float32", wire=wire.name),
    )


def packed_bytes(num_codes: int, bits: int) -> int:
    """Bytes for so many codes, packed in planes of equal length."""
    if bits == 8:
        return num_codes
    planes = {6: 4, 4: 2, 2: 4}[bits]
    bytes_for_planes = {6: 3, 4: 1, 2: 1}[bits]
    return -(-num_codes // planes) * bytes_for_planes


def wire_bytes(boundary: Boundary, wire: WireFormat) -> int:
    """Bytes of one microbatch at this boundary in this format."""
    return sum(spec.num_bytes for tensor in boundary.tensors for spec in wire_tensors(tensor, wire))


def encode_s(boundary: Boundary, wire: WireFormat, device: Device) -> float:
    """Seconds that the sending stage takes to encode this boundary."""
    return _seconds(boundary, wire, device, wire.encode_bytes, _NUM_OPERATORS_ENCODE)


def decode_s(boundary: Boundary, wire: WireFormat, device: Device) -> float:
    """Seconds that the receiving stage takes to decode this boundary."""
    return _seconds(boundary, wire, device, wire.decode_bytes, _NUM_OPERATORS_DECODE)


def _seconds(boundary: Boundary, wire: WireFormat, device: Device, bytes_each: float, num_operators: int) -> float:
    encoded = [tensor for tensor in boundary.tensors if is_encoded(tensor, wire)]
    elements = sum(math.prod(tensor.shape) for tensor in encoded)
    return elements * bytes_each / device.memory_bytes_per_s + len(encoded) * num_operators * device.launch_s
