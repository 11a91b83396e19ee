"""Writes encoding and decoding into a stage's graph, so that the runtime only ships tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx
from torch.nn import functional

from edgecompile.units import BoundaryTensor
from edgecompile.wire import FORMATS, WireFormat, is_encoded, wire_tensors

__all__ = ["CLIP_FACTOR", "decode_tensor", "encode_tensor", "insert_decoding", "insert_encoding"]

# Where to clip, in mean absolute deviations of a Laplace distribution: the minimum over a of
# 2 exp(-a) + a^2 / (3 * 4^bits), the sum of the clipping and the rounding error (Banner et al. 2019, equation 12).
# At 8 bits the optimum (9.89) lies so far out that clipping only hurts the outliers of transformers.
CLIP_FACTOR = {2: 2.83, 4: 5.03, 6: 7.41}


def insert_decoding(graph: fx.Graph, tensors: Sequence[BoundaryTensor], wire: WireFormat) -> dict[fx.Node, fx.Node]:
    """Placeholders for what travels, and for each tensor of the boundary the node that holds it, decoded."""
    found: dict[fx.Node, fx.Node] = {}
    parts = [
        [graph.placeholder(f"input_{place}_{index}") for index, _ in enumerate(wire_tensors(tensor, wire))]
        for place, tensor in enumerate(tensors)
    ]
    for tensor, nodes in zip(tensors, parts, strict=True):
        if is_encoded(tensor, wire):
            found[tensor.node] = graph.call_function(_decode, (nodes, tensor.shape, *_plain(wire)))
        else:
            (found[tensor.node],) = nodes
    return found


def insert_encoding(
    graph: fx.Graph, nodes: Sequence[fx.Node], tensors: Sequence[BoundaryTensor], wire: WireFormat
) -> tuple[fx.Node, ...]:
    """The nodes that travel for these tensors, in the boundary's order."""
    sent: list[fx.Node] = []
    for node, tensor in zip(nodes, tensors, strict=True):
        if is_encoded(tensor, wire):
            encoded = graph.call_function(_encode, (node, tensor.shape, *_plain(wire)))
            count = len(wire_tensors(tensor, wire))
            sent.extend(graph.call_function(_part, (encoded, index)) for index in range(count))
        else:
            sent.append(node)
    return tuple(sent)


def _plain(wire: WireFormat) -> tuple[str, bool, bool]:
    """A format as fx can hold it among a call's arguments."""
    return wire.name, wire.by_channel, wire.clipping


def _encode(
    value: torch.Tensor, shape: tuple[int, ...], name: str, by_channel: bool, clipping: bool
) -> list[torch.Tensor]:
    return encode_tensor(value, shape, replace(FORMATS[name], by_channel=by_channel, clipping=clipping))


def _decode(
    parts: Sequence[torch.Tensor], shape: tuple[int, ...], name: str, by_channel: bool, clipping: bool
) -> torch.Tensor:
    return decode_tensor(parts, shape, replace(FORMATS[name], by_channel=by_channel, clipping=clipping))


def _part(parts: Sequence[torch.Tensor], index: int) -> torch.Tensor:
    return parts[index]


def encode_tensor(value: torch.Tensor, shape: tuple[int, ...], wire: WireFormat) -> list[torch.Tensor]:
    """What travels for `value`, float32 of this shape: half-precision floats, or codes and their scale.

    Returns:
        [(shape) float16 or bfloat16], or [codes (B, bytes) uint8, scale (B, 2, groups) float32: offset and step].
    """
    if wire.name == "fp16":
        return [value.clamp(-65504.0, 65504.0).to(torch.float16)]
    if wire.name == "bf16":
        return [value.to(torch.bfloat16)]
    count, groups = math.prod(shape[1:]), _groups(shape, wire)
    rows = value.reshape(shape[0], count // groups, groups) if groups > 1 else value.reshape(shape[0], count)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)  # aminmax of a dimension takes ten times as long
    clips = wire.clipping and wire.bits in CLIP_FACTOR
    if clips:
        mean = rows.mean(1, keepdim=True)
        reach = (rows - mean).abs_().mean(1, keepdim=True) * CLIP_FACTOR[wire.bits]
        low, high = torch.maximum(low, mean - reach), torch.minimum(high, mean + reach)
    most = float(2**wire.bits - 1)
    step = ((high - low) / most).clamp(min=1e-30)
    scaled = (rows - low).mul_(step.reciprocal()).round_()
    codes = (scaled.clamp_(0.0, most) if clips else scaled).to(torch.uint8)
    scale = torch.cat([low, step], dim=1).reshape(shape[0], 2, groups)
    return [_pack(codes.reshape(shape[0], count), count, wire.bits), scale]


def decode_tensor(parts: Sequence[torch.Tensor], shape: tuple[int, ...], wire: WireFormat) -> torch.Tensor:
    """The float32 tensor of this shape that `encode_tensor` encoded, but for what the format lost."""
    if not wire.is_integer:
        return parts[0].to(torch.float32)
    packed, scale = parts
    count = math.prod(shape[1:])
    codes = _unpack(packed, count, wire.bits)
    groups = _groups(shape, wire)
    rows = codes.reshape(shape[0], count // groups, groups).to(torch.float32)
    return rows.mul_(scale[:, 1:]).add_(scale[:, :1]).reshape(shape)


def _groups(shape: tuple[int, ...], wire: WireFormat) -> int:
    """How many offsets and steps an item has."""
    return shape[-1] if wire.by_channel and len(shape) > 1 else 1


def _pack(codes: torch.Tensor, count: int, bits: int) -> torch.Tensor:
    """Codes (B, count) to bytes: planes of equal length side by side in each byte, so that no step is strided."""
    if bits == 8:
        return codes
    num_planes = {6: 4, 4: 2, 2: 4}[bits]
    length = -(-count // num_planes)
    if length * num_planes != count:
        codes = functional.pad(codes, (0, length * num_planes - count))
    planes = [codes[:, index * length : (index + 1) * length] for index in range(num_planes)]
    if bits == 4:
        return planes[0] + planes[1] * 16
    if bits == 2:
        return planes[0] + planes[1] * 4 + planes[2] * 16 + planes[3] * 64
    first, second, third, fourth = planes
    return torch.cat([first + (second & 3) * 64, (second >> 2) + (third & 15) * 16, (third >> 4) + fourth * 4], dim=1)


def _unpack(packed: torch.Tensor, count: int, bits: int) -> torch.Tensor:
    """Bytes back to codes (B, count), each in a byte of its own."""
    if bits == 8:
        return packed
    if bits == 4:
        planes = [packed & 15, packed >> 4]
    elif bits == 2:
        planes = [packed & 3, (packed >> 2) & 3, (packed >> 4) & 3, packed >> 6]
    else:
        length = packed.shape[1] // 3
        first, second, third = packed[:, :length], packed[:, length : 2 * length], packed[:, 2 * length :]
        planes = [first & 63, (first >> 6) + (second & 15) * 4, (second >> 4) + (third & 3) * 16, third >> 2]
    return torch.cat(planes, dim=1)[:, :count]
