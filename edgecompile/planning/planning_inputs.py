"""The costs and machines that a plan holds, and the scheduling problem they state; no model, no torch.

The compiler makes it once the units are profiled, writes it into plan.yaml and plans from it; whoever reads a plan has
the same again. So a problem that was solved and one that is asked again are stated by the same function.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from edgecompile.contract.closed_sets import Objective, WireName
from edgecompile.contract.cluster import Device, Host, Limits, Network, SpareHost
from edgecompile.contract.costs import BoundaryEntry, Scheduling, SharedEntry, UnitEntry
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Runtime
from edgecompile.planning.memory import most_ends_bytes
from edgecompile.planning.problem import (
    HostLinks,
    Kind,
    PairwiseLinks,
    Pin,
    Problem,
    SchedHost,
    SharedMedium,
    SharedWeight,
)

__all__ = ["CutFormats", "PlanningInputs", "any_format", "formats_at", "one_format", "state_problem"]

RAW = WireName.FP32.value
"""Inputs and results travel as they are."""

CutFormats = Sequence[Collection[str]]
"""The wire formats that may be at each cut; one more than units."""


@dataclass(frozen=True, kw_only=True)
class PlanningInputs:
    """The fields of a plan by these names, but for `hosts`."""

    objective: Objective
    hosts: tuple[Host | SpareHost, ...]
    """All of the cluster's, the data host first."""
    devices: tuple[Device, ...]
    network: Network
    runtime: Runtime
    scheduling: Scheduling
    boundaries: tuple[BoundaryEntry, ...]
    shared_weights: tuple[SharedEntry, ...]
    units: tuple[UnitEntry, ...]

    @property
    def host_names(self) -> tuple[str, ...]:
        return tuple(host.name for host in self.hosts)

    @property
    def uncuttable(self) -> tuple[tuple[int, int], ...]:
        """The pairs of units between which no cut is possible."""
        return tuple((unit.unit - 1, unit.unit) for unit in self.units if not unit.cuttable)


def one_format(inputs: PlanningInputs, wire: str) -> CutFormats:
    """The same at every cut."""
    return [(RAW,), *[(wire,)] * (len(inputs.units) - 1), (RAW,)]


def any_format(inputs: PlanningInputs) -> CutFormats:
    """Whatever was asked for, at every cut, where it is not known yet which of `per_cut` belongs to which."""
    asked = inputs.scheduling
    return [(RAW,), *[asked.per_cut or (asked.wire,)] * (len(inputs.units) - 1), (RAW,)]


def formats_at(inputs: PlanningInputs, starts: Sequence[int]) -> CutFormats:
    """As asked for, where stages begin at these units: `per_cut` has none or one for each cut."""
    asked = inputs.scheduling
    formats = list(one_format(inputs, asked.wire))
    for start, name in zip(starts[1:], asked.per_cut, strict=False):
        formats[start] = (name,)
    return formats


def state_problem(inputs: PlanningInputs, formats: CutFormats) -> Problem:
    """The scheduler's view: seconds, bytes and limits, and nothing of graphs.

    Args:
        formats: where a cut may have several, it has the least bytes and the least seconds of any of them, each by
            itself: no choice of cuts and of formats among these costs less.

    Raises:
        UserError: the rate of an interface is unknown.
    """
    entries = [*(inputs.boundaries[unit.boundary] for unit in inputs.units), inputs.boundaries[-1]]
    cuts = list(zip(entries, formats, strict=True))
    sizes = tuple(min(entry.wire_bytes[name] for name in names) for entry, names in cuts)
    buffers = tuple(min(entry.buffer_bytes[name] for name in names) for entry, names in cuts)
    asked, runtime = inputs.scheduling, inputs.runtime
    place = {name: index for index, name in enumerate(inputs.host_names)}
    kinds = [
        Kind(
            name=device.name,
            unit_s=tuple(unit.time_s[device.name] for unit in inputs.units),
            encode_s=tuple(min(entry.encode_s[device.name][name] for name in names) for entry, names in cuts),
            decode_s=tuple(min(entry.decode_s[device.name][name] for name in names) for entry, names in cuts),
            runtime_bytes=device.runtime_bytes,
            saved_bytes=_saved_bytes(inputs.units, device.name),
        )
        for device in inputs.devices
    ]
    if asked.feed_s:
        kinds.append(_feeding(inputs, kinds))
    return Problem(
        kinds=tuple(kinds),
        hosts=_hosts(inputs, most_ends_bytes(runtime, buffers[0], buffers[-1], len(inputs.hosts))),
        links=_links(inputs.network, [(host.name, host.limits) for host in inputs.hosts]),
        cut_bytes=sizes,
        weight_bytes=tuple(unit.weight_bytes + unit.state_bytes for unit in inputs.units),
        shared_weights=tuple(
            SharedWeight(units=item.units, num_bytes=item.num_bytes) for item in inputs.shared_weights
        ),
        activation_bytes=tuple(unit.activation_bytes for unit in inputs.units),
        entry_bytes=tuple(runtime.num_buffers_in * size for size in buffers),
        exit_bytes=tuple(runtime.num_buffers_out * size for size in buffers),
        data_host=0,
        objective=inputs.objective,
        messages=asked.messages,
        latency_limit_s=asked.latency_limit_s,
        period_limit_s=asked.period_limit_s,
        pins=tuple(Pin(units=pin.units, hosts=tuple(place[host] for host in pin.hosts)) for pin in asked.pins),
        together=(*asked.together, *inputs.uncuttable),
        excluded_hosts=tuple(place[host] for host in asked.exclude),
        host_order=None if asked.host_order is None else tuple(place[host] for host in asked.host_order),
        max_hosts=asked.max_hosts,
        state_budget=asked.state_budget,
    )


def _saved_bytes(units: Sequence[UnitEntry], device: str) -> tuple[int, ...]:
    saved = tuple(unit.saved_bytes.get(device, 0) for unit in units)
    return saved if any(saved) else ()


def _feeding(inputs: PlanningInputs, kinds: Sequence[Kind]) -> Kind:
    """The data host as a kind of its own: each stage there takes what the items of a message take beside it."""
    own = next(kind for kind in kinds if kind.name == inputs.hosts[0].device)
    feed_s = inputs.scheduling.feed_s
    return replace(own, decode_s=tuple(seconds + feed_s for seconds in own.decode_s))


def _hosts(inputs: PlanningInputs, ends_bytes: int) -> tuple[SchedHost, ...]:
    """The first one, the data host, has the pipeline's two ends beside the stage that it may run."""
    kinds = [device.name for device in inputs.devices]
    return tuple(
        SchedHost(
            name=host.name,
            kind=kinds.index(host.device) if index or not inputs.scheduling.feed_s else len(kinds),
            memory_bytes=host.limits.memory_bytes if index else max(0, host.limits.memory_bytes - ends_bytes),
            bandwidth_bytes_per_s=host.limits.bandwidth_bytes_per_s,
        )
        for index, host in enumerate(inputs.hosts)
    )


def _links(network: Network, hosts: Sequence[tuple[str, Limits]]) -> HostLinks | PairwiseLinks | SharedMedium:
    if network.model == "shared":
        assert network.bandwidth_bytes_per_s is not None
        return SharedMedium(bandwidth_bytes_per_s=network.bandwidth_bytes_per_s, latency_s=network.latency_s)
    if network.model == "host":
        for name, limits in hosts:
            if limits.bandwidth_bytes_per_s is None:
                raise UserError(f"the rate of {name}'s interface is unknown: compile the plan again")
        return HostLinks(latency_s=network.latency_s)
    figures = [[_pair(network, source, destination) for destination in hosts] for source in hosts]
    return PairwiseLinks(
        bandwidth_bytes_per_s=tuple(tuple(rate for rate, _ in row) for row in figures),
        latency_s=tuple(tuple(latency for _, latency in row) for row in figures),
    )


def _pair(network: Network, source: tuple[str, Limits], destination: tuple[str, Limits]) -> tuple[float, float]:
    figures = network.figures(source, destination)
    if figures is None:
        raise UserError(f"the rate from {source[0]} to {destination[0]} is unknown: compile the plan again")
    return figures
