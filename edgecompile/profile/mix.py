"""Costs of a workload: of the mix of messages that a stream of items of unlike extents becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgecompile.config.cluster_spec import Device
from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.plan import Dim, product
from edgecompile.execution.batching import Limits, messages_of
from edgecompile.frontend.chain.sized_work import SizedWork
from edgecompile.frontend.chain.units import Boundary
from edgecompile.profile.analytic import Products, Profile, roofline_s
from edgecompile.profile.wire_costs import WireCosts
from edgecompile.wire.formats import WireFormat, wire_bytes

__all__ = ["Mix", "items_of", "mix_of", "mixed_profile"]

_LEAST_WINDOWS = 16
"""A shorter list of items is a sample of a stream that goes on: the few that are left at its end say nothing of it."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Messages, each as likely as it is often there."""

    source: str
    """Of what items, in words."""
    dims: Mapping[str, Dim]
    dim: str
    """The dimension in which items differ."""
    messages: tuple[tuple[int, int], ...]
    """Items, and their largest extent."""
    useful: float
    """The share of positions that is not padding."""
    contexts: Mapping[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    """Of a language model: of a kind of message the tokens that slots hold before it, in a few cases that are each as
    likely; a kind that is not there has the usual context."""

    @property
    def items(self) -> float:
        """Of a message, on average."""
        return float(np.mean([batch for batch, _ in self.messages]))

    @property
    def positions(self) -> float:
        """Computed for a message, on average."""
        return float(np.mean([batch * extent for batch, extent in self.messages]))

    @cached_property
    def counted(self) -> dict[tuple[int, int], float]:
        """The share of each kind of message."""
        kinds: dict[tuple[int, int], float] = {}
        for message in self.messages:
            kinds[message] = kinds.get(message, 0.0) + 1 / len(self.messages)
        return kinds

    def share_of_largest(self, dims: Sequence[str | None]) -> float:
        """What a tensor with these dimensions has of elements, on average, of those at the largest sizes."""
        named = [text for text in dims if text is not None]
        largest = {name: dim.max for name, dim in self.dims.items()}
        whole = math.prod(product(text, largest) for text in named)
        mean = sum(
            share * math.prod(product(text, {**largest, BATCH: batch, self.dim: extent}) for text in named)
            for (batch, extent), share in self.counted.items()
        )
        return mean / whole

    def wire_bytes(self, boundary: Boundary, wire: WireFormat) -> int:
        """Of a message, on average."""
        alone = (replace(boundary, tensors=(tensor,)) for tensor in boundary.tensors)
        parts = (self.share_of_largest(part.tensors[0].dims) * wire_bytes(part, wire) for part in alone)
        return round(sum(parts))

    def usual(self, boundary: Boundary) -> Boundary:
        """The boundary in a message of the mean sizes."""
        batch = max(1, round(self.items))
        sizes = {name: dim.max for name, dim in self.dims.items()}
        sizes |= {BATCH: batch, self.dim: max(1, round(self.positions / batch))}
        return boundary.at(sizes)


def items_of(mix: Mix | None, microbatch: int) -> float:
    """Of a message, on average."""
    return microbatch if mix is None else mix.items


def mix_of(source: str, extents: Sequence[int], dim: str, dims: Mapping[str, Dim], limits: Limits, window: int) -> Mix:
    """The messages of a stream of items with these extents.

    Args:
        window: items that are looked at at a time.
    """
    again = math.ceil(_LEAST_WINDOWS * window / len(extents))
    messages = messages_of([(extent,) for extent in extents] * again, limits, window)
    kinds = tuple((len(items), max(extent for (extent,) in items)) for items in messages)
    computed = sum(batch * extent for batch, extent in kinds)
    return Mix(source=source, dims=dims, dim=dim, messages=kinds, useful=again * sum(extents) / computed)


@dataclass(frozen=True)
class _MixedWires:
    """Of a message of the mean sizes."""

    costs: WireCosts
    mix: Mix

    def encode_s(self, boundary: Boundary, wire: WireFormat) -> float:
        return self.costs.encode_s(self.mix.usual(boundary), wire)

    def decode_s(self, boundary: Boundary, wire: WireFormat) -> float:
        return self.costs.decode_s(self.mix.usual(boundary), wire)


def mixed_profile(
    profile: Profile, work: SizedWork, mix: Mix, devices: Sequence[Device], products: Products
) -> Profile:
    """The profile of the mean message; memory stays that of the largest.

    Times that are not of the mix yet follow the roofline: those of the largest message times what it makes of the
    difference.

    Args:
        products: what the precision of a device lowers.
    """
    kinds = list(mix.counted.items())
    largest = mix.dims[BATCH].max, mix.dims[mix.dim].max
    flops, moved = (
        np.stack([count(*kind, mix.contexts.get(kind, ())) for kind, _ in kinds])
        for count in (work.flops_at, work.moved_bytes_at)
    )
    shares = np.array([share for _, share in kinds])
    most = work.flops_at(*largest), work.moved_bytes_at(*largest)
    unit_s = dict(profile.unit_s)
    for device in devices:
        if device.name in profile.of_mix:
            continue
        mean = shares @ _roofline(flops, moved, device, products)
        factors = mean / _roofline(*most, device, products)
        unit_s[device.name] = tuple(float(value) for value in factors * np.array(profile.unit_s[device.name]))
    wires = {name: _MixedWires(costs, mix) for name, costs in profile.wires.items()}
    return replace(profile, unit_s=unit_s, wires=wires)


def _roofline(
    flops: NDArray[np.float64], moved: NDArray[np.float64], device: Device, products: Products
) -> NDArray[np.float64]:
    """In the device's precision; both are of each unit in their last axis."""
    own = (products.lowered(flops[..., unit], moved[..., unit], unit, device) for unit in range(flops.shape[-1]))
    fewer_flops, fewer_bytes = (np.stack(values, axis=-1) for values in zip(*own, strict=True))
    result: NDArray[np.float64] = np.vectorize(lambda one, other: roofline_s(one, other, device))(
        fewer_flops, fewer_bytes
    )
    return result
