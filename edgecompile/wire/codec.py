"""Inserts encoding and decoding into a stage's graph, so that the runtime only moves tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx
from torch.nn import functional

from edgecompile.frontend.capture.graphs import TensorFacts
from edgecompile.frontend.chain.units import BoundaryTensor
from edgecompile.wire.formats import FORMATS, WireFormat, is_encoded, items_first, varying_axis, wire_tensors

__all__ = ["CLIP_FACTOR", "decode_tensor", "encode_tensor", "insert_decoding", "insert_encoding"]

# Where to clip, in mean absolute deviations of a Laplace distribution: the minimum over a of
# 2 exp(-a) + a^2 / (3 * 4^bits), the sum of the clipping and the rounding error (Banner et al. 2019, equation 12).
CLIP_FACTOR = {2: 2.83, 4: 5.03, 6: 7.41}
FIT_ROUNDS = 2
LEAST_STEP = 1e-30
LEAST_VARIANCE = 1e-6


def insert_decoding(graph: fx.Graph, tensors: Sequence[BoundaryTensor], wire: WireFormat) -> dict[fx.Node, fx.Node]:
    """Placeholders for what travels, and for each tensor of the boundary the node that holds it, decoded."""
    found: dict[fx.Node, fx.Node] = {}
    parts = [
        [graph.placeholder(f"input_{place}_{index}") for index, _ in enumerate(wire_tensors(tensor, wire))]
        for place, tensor in enumerate(tensors)
    ]
    for tensor, nodes in zip(tensors, parts, strict=True):
        if is_encoded(tensor, wire):
            decoded = graph.call_function(_decode, (nodes, items_first(tensor), varying_axis(tensor), *_plain(wire)))
            found[tensor.node] = _moved(graph, decoded, 0, tensor.item_axis)
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
            value = _moved(graph, _resolved(graph, node, tensor), tensor.item_axis, 0)
            encoded = graph.call_function(_encode, (value, items_first(tensor), varying_axis(tensor), *_plain(wire)))
            count = len(wire_tensors(tensor, wire))
            sent.extend(graph.call_function(_part, (encoded, index)) for index in range(count))
        else:
            sent.append(_resolved(graph, node, tensor))
    return tuple(sent)


def _moved(graph: fx.Graph, node: fx.Node, source: int | None, destination: int | None) -> fx.Node:
    if not source and not destination:
        return node
    return graph.call_function(torch.ops.aten.movedim.int, (node, source or 0, destination or 0))


def _resolved(graph: fx.Graph, node: fx.Node, tensor: BoundaryTensor) -> fx.Node:
    """Messages hold values: a view that stands for the negative of its memory becomes a tensor of its own."""
    facts = tensor.node.meta.get("facts")
    negated = isinstance(facts, TensorFacts) and facts.negated
    return graph.call_function(torch.ops.aten.resolve_neg.default, (node,)) if negated else node


def _plain(wire: WireFormat) -> tuple[str, bool, bool]:
    """A format as fx can hold it among a call's arguments."""
    return wire.name, wire.by_channel, wire.clipping


def _encode(
    value: torch.Tensor, shape: tuple[int, ...], varying: int | None, name: str, by_channel: bool, clipping: bool
) -> list[torch.Tensor]:
    return encode_tensor(value, shape, replace(FORMATS[name], by_channel=by_channel, clipping=clipping), varying)


def _decode(
    parts: Sequence[torch.Tensor], shape: tuple[int, ...], varying: int | None, name: str, by_channel: bool,
    clipping: bool,
) -> torch.Tensor:  # fmt: skip
    return decode_tensor(parts, shape, replace(FORMATS[name], by_channel=by_channel, clipping=clipping), varying)


def _part(parts: Sequence[torch.Tensor], index: int) -> torch.Tensor:
    return parts[index]


def encode_tensor(
    value: torch.Tensor, shape: tuple[int, ...], wire: WireFormat, varying: int | None = None
) -> list[torch.Tensor]:
    """What travels for `value`, float32 of this shape: half-precision floats, or codes and their scale.

    A trace of it takes any number of items, and any extent of the axis `varying`.

    Args:
        shape: the largest. It decides on the groups, whatever `value` has.
        varying: counted in an item; None: items have this shape.

    Returns:
        [(shape) float16 or bfloat16], or [codes (B, bytes) uint8, scale (B, 2, groups) float32: offset and step].
    """
    if wire.name == "fp16":
        return [value.clamp(-65504.0, 65504.0).to(torch.float16)]
    if wire.name == "bf16":
        return [value.to(torch.bfloat16)]
    count, groups = math.prod(shape[1:]), wire.num_groups(shape)
    whole = value if value.dim() > 1 else value.unsqueeze(1)
    rows = whole.flatten(1, -2) if groups > 1 else whole.flatten(1)
    offset, step = _levels(rows, wire)
    scaled = (rows - offset).mul_(step.reciprocal()).round_()
    inside = not (wire.clips(groups) or wire.fits(groups))
    codes = (scaled if inside else scaled.clamp_(0.0, 2**wire.bits - 1)).to(torch.uint8)
    scale = torch.cat([offset, step], dim=1)
    return [_pack(codes.flatten(1), count, wire.bits), scale if groups > 1 else scale.unsqueeze(2)]


def _levels(rows: torch.Tensor, wire: WireFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Offset and step of each group, the values of which lie along dimension 1: code k stands for offset + k step."""
    groups = rows.shape[2] if rows.dim() == 3 else 1
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)  # aminmax of a dimension takes ten times as long
    if wire.clips(groups):
        return _clipped_levels(rows, low, high, wire.bits)
    step = _step(low, high, 2**wire.bits - 1)
    return _fitted_levels(rows, low, step, wire.bits) if wire.fits(groups) else (low, step)


def _step(low: torch.Tensor, high: torch.Tensor, num_steps: int) -> torch.Tensor:
    return ((high - low) / num_steps).clamp(min=LEAST_STEP)


def _spread(low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels from low to high; of four levels each in the middle of its quarter, since two at the ends are a waste."""
    if bits > 2:
        return low, _step(low, high, 2**bits - 1)
    step = _step(low, high, 2**bits)
    return low + step / 2, step


def _clipped_levels(
    rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels within CLIP_FACTOR of the mean where what that clips weighs less than the finer steps save."""
    mean = rows.mean(1, keepdim=True)
    deviation = (rows - mean).abs_()
    reach = deviation.mean(1, keepdim=True) * CLIP_FACTOR[bits]
    clipped = deviation.sub_(reach).clamp_(min=0.0).square_().mean(1, keepdim=True)
    wide_offset, wide_step = _spread(low, high, bits)
    offset, step = _spread(torch.maximum(low, mean - reach), torch.minimum(high, mean + reach), bits)
    better = clipped + step.square() / 12 < wide_step.square() / 12
    return torch.where(better, offset, wide_offset), torch.where(better, step, wide_step)


def _fitted_levels(
    rows: torch.Tensor, offset: torch.Tensor, step: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares of the values on their codes, in turn with the codes (Lloyd's algorithm), by weights.

    A value weighs its squared distance from the mean. Unweighted, the few tokens that differ from the rest are given up
    for the many that are alike, and they are what a model reads in the end.
    """
    mean = rows.mean(1, keepdim=True)
    deviation = rows - mean
    weights = deviation.square()
    total = weights.sum(1, keepdim=True).clamp(min=LEAST_STEP)
    mean_deviation = (weights * deviation).sum(1, keepdim=True) / total
    for _ in range(FIT_ROUNDS):
        codes = (rows - offset).mul_(step.reciprocal()).round_().clamp_(0.0, 2**bits - 1)
        weighted = weights * codes
        mean_code = weighted.sum(1, keepdim=True) / total
        variance = codes.mul_(weighted).sum(1, keepdim=True) / total - mean_code.square()
        covariance = weighted.mul_(deviation).sum(1, keepdim=True) / total - mean_code * mean_deviation
        slope = covariance / variance.clamp(min=LEAST_VARIANCE)
        fits = (variance > LEAST_VARIANCE) & (slope > LEAST_STEP)
        offset = torch.where(fits, mean + mean_deviation - slope * mean_code, offset)
        step = torch.where(fits, slope, step)
    return offset, step


def decode_tensor(
    parts: Sequence[torch.Tensor], shape: tuple[int, ...], wire: WireFormat, varying: int | None = None
) -> torch.Tensor:
    """The float32 tensor of this shape that `encode_tensor` encoded, but for what the format lost; as traceable."""
    if not wire.is_integer:
        return parts[0].to(torch.float32)
    packed, scale = parts
    codes = _unpack(packed, math.prod(shape[1:]), wire.bits)
    groups = wire.num_groups(shape)
    rows = (torch.unflatten(codes, 1, (-1, groups)) if groups > 1 else codes.unsqueeze(2)).to(torch.float32)
    values = rows.mul_(scale[:, 1:]).add_(scale[:, :1]).flatten(1)
    item = [-1 if axis == varying else extent for axis, extent in enumerate(shape[1:])]
    return torch.unflatten(values, 1, item) if item else values.squeeze(1)


def _pack(codes: torch.Tensor, count: int, bits: int) -> torch.Tensor:
    """Codes (B, count) to bytes: planes of equal length side by side in each byte, so that no step is strided.

    Another number of them than `count` fills whole bytes, or `count` does.
    """
    if bits == 8:
        return codes
    num_planes = {6: 4, 4: 2, 2: 4}[bits]
    if count % num_planes:
        codes = functional.pad(codes, (0, num_planes - count % num_planes))
    planes = _side_by_side(codes, num_planes)
    if bits == 4:
        return planes[0] + planes[1] * 16
    if bits == 2:
        return planes[0] + planes[1] * 4 + planes[2] * 16 + planes[3] * 64
    first, second, third, fourth = planes
    return torch.cat([first + (second & 3) * 64, (second >> 2) + (third & 15) * 16, (third >> 4) + fourth * 4], dim=1)


def _side_by_side(values: torch.Tensor, count: int) -> list[torch.Tensor]:
    """So many parts of equal length. No list of TorchScript's: what is in one might be any weight, to be written to."""
    parts = torch.unflatten(values, 1, (count, -1))
    return [parts.select(1, index) for index in range(count)]


def _unpack(packed: torch.Tensor, count: int, bits: int) -> torch.Tensor:
    """Bytes back to codes (B, count), each in a byte of its own."""
    if bits == 8:
        return packed
    if bits == 4:
        planes = [packed & 15, packed >> 4]
    elif bits == 2:
        planes = [packed & 3, (packed >> 2) & 3, (packed >> 4) & 3, packed >> 6]
    else:
        first, second, third = _side_by_side(packed, 3)
        planes = [first & 63, (first >> 6) + (second & 15) * 4, (second >> 4) + (third & 3) * 16, third >> 2]
    codes = torch.cat(planes, dim=1)
    return codes[:, :count] if count % len(planes) else codes
