"""chain x profile x cluster -> the inputs of planning, as the plan will hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

from edgecompile.config.cluster_spec import Cluster
from edgecompile.config.generation_request import GenerationRequest
from edgecompile.config.methods import TextObjective
from edgecompile.config.request import CompileRequest, WireRequest
from edgecompile.config.schedule_request import ConstraintsRequest
from edgecompile.contract.closed_sets import DataKind
from edgecompile.contract.costs import BoundaryEntry, Pinned, Scheduling, SharedEntry, UnitEntry
from edgecompile.contract.generation import candidate_bytes
from edgecompile.frontend.chain.blocks import unit_range
from edgecompile.frontend.chain.kept_state import state_of
from edgecompile.frontend.chain.products import WEIGHT_SHARES, lowered_by
from edgecompile.frontend.chain.units import Boundary, Chain, Weight
from edgecompile.partition.machines import device_entries, network_entry, spare_hosts
from edgecompile.planning.planning_inputs import PlanningInputs
from edgecompile.profile.analytic import Profile
from edgecompile.profile.mix import Mix, items_of
from edgecompile.wire.formats import FORMATS, WireFormat, wire_bytes, wire_format

__all__ = ["planning_inputs"]


def planning_inputs(request: CompileRequest, chain: Chain, profile: Profile, mix: Mix | None = None) -> PlanningInputs:
    """
    Args:
        profile: of the mix's mean message, where there is a mix.

    Raises:
        UserError: a constraint names an unknown unit or module, or a profile lacks a wire format's costs.
    """
    boundaries, numbers = _boundaries(chain, profile, request.cluster, request.wire, mix)
    if request.generation is not None:
        boundaries = (*boundaries[:-1], _candidates(boundaries[-1], request, profile, mix))
    state = _state_bytes(request, chain)
    shares = _shares(request, chain)
    own_bytes, shared = _weights(chain, {unit: max(of.values()) for unit, of in shares.items()})
    return PlanningInputs(
        objective=request.schedule.objective,
        hosts=spare_hosts(request.cluster, set()),
        devices=device_entries(request.cluster, profile),
        network=network_entry(request.cluster),
        runtime=request.runtime,
        scheduling=replace(
            _scheduling(request, chain, items_of(mix, request.microbatch)), feed_s=_feed_s(request, profile, mix)
        ),
        boundaries=boundaries,
        shared_weights=shared,
        units=tuple(
            UnitEntry(
                unit=unit.index,
                op=unit.op,
                boundary=numbers[unit.index],
                cuttable=chain.boundaries[unit.index].cuttable,
                flops=unit.flops,
                weight_bytes=own_bytes[unit.index],
                saved_bytes=_saved(own_bytes[unit.index], shares[unit.index]) if unit.index in shares else {},
                state_bytes=state.get(unit.index, 0),
                activation_bytes=profile.activation_bytes[unit.index],
                time_s={device.name: profile.unit_s[device.name][unit.index] for device in request.cluster.devices},
            )
            for unit in chain.units
        ),
    )


def _shares(request: CompileRequest, chain: Chain) -> dict[int, dict[str, float]]:
    """What the weights of a unit that a precision changes take of their bytes, by kind of device."""
    devices = request.cluster.devices
    lowered = lowered_by(chain, request.precision.keep, request.cluster.precisions)
    return {
        unit: {
            device.name: WEIGHT_SHARES[device.precision] if unit in lowered[device.precision] else 1.0
            for device in devices
        }
        for unit in sorted(frozenset[int]().union(*lowered.values()))
    }


def _state_bytes(request: CompileRequest, chain: Chain) -> dict[int, int]:
    """By unit: of the keys and values that it keeps, all slots together."""
    found: dict[int, int] = {}
    if request.generation is not None:
        kept = request.generation.slots * request.generation.context
        for spec in state_of(chain):
            found[spec.unit] = found.get(spec.unit, 0) + kept * spec.token_bytes
    return found


def _candidates(
    results: BoundaryEntry, request: CompileRequest, profile: Profile, mix: Mix | None
) -> BoundaryEntry:  # fmt: skip
    """The last rank finds the most likely tokens of a row, and sends them and not the scores of all."""
    assert request.generation is not None
    row_bytes = candidate_bytes(request.generation.candidates)
    rows = items_of(mix, request.microbatch)
    encode_s = {
        device: {name: seconds + _finding_s(profile, device, rows) for name, seconds in costs.items()}
        for device, costs in results.encode_s.items()
    }
    wire_bytes = {name: round(rows * row_bytes) for name in results.wire_bytes}
    return replace(results, wire_bytes=wire_bytes, encode_s=encode_s,
                   largest_bytes=dict.fromkeys(results.buffer_bytes, request.microbatch * row_bytes))  # fmt: skip


def _finding_s(profile: Profile, device: str, rows: float) -> float:
    """Candidates of so many rows; 0 where the profile does not tell."""
    cost = profile.candidates.get(device)
    return 0.0 if cost is None else cost.fixed_s + rows * cost.row_s


def _feed_s(request: CompileRequest, profile: Profile, mix: Mix | None) -> float:
    """Of the data host, for the items of a message; 0 where the profile does not tell."""
    cost = profile.items.get(request.cluster.hosts[0].device)
    if cost is None:
        return 0.0
    items, tokens = items_of(mix, request.microbatch), None
    if request.data.kind is DataKind.TEXT:
        tokens = 0.0 if mix is None else mix.positions * mix.useful
    return cost.of_message(items, tokens)


def _boundaries(
    chain: Chain, profile: Profile, cluster: Cluster, wire: WireRequest, mix: Mix | None
) -> tuple[tuple[BoundaryEntry, ...], list[int]]:
    """The distinct boundaries, the results' last, and which of them each cut has."""
    raw = [FORMATS["fp32"]]
    formats = [wire_format(name, wire.scale, wire.clipping) for name in FORMATS]
    last = len(chain.boundaries) - 1
    entries: list[BoundaryEntry] = []
    numbers = []
    for cut, boundary in enumerate(chain.boundaries):
        entry = _boundary(boundary, profile, cluster, formats if 0 < cut < last else raw, mix)
        same = [] if cut in (0, last) else [item.boundary for item in entries[1:] if _like(item, entry)]
        if not same:
            entries.append(replace(entry, boundary=len(entries)))
        numbers.append(same[0] if same else len(entries) - 1)
    return tuple(entries), numbers


def _like(one: BoundaryEntry, other: BoundaryEntry) -> bool:
    return replace(one, boundary=other.boundary) == other


def _boundary(
    boundary: Boundary, profile: Profile, cluster: Cluster, formats: Sequence[WireFormat], mix: Mix | None
) -> BoundaryEntry:
    largest = {wire.name: wire_bytes(boundary, wire) for wire in formats}
    costs = {device.name: profile.wires[device.name] for device in cluster.devices}
    return BoundaryEntry(
        boundary=0,
        wire_bytes=largest if mix is None else {wire.name: mix.wire_bytes(boundary, wire) for wire in formats},
        largest_bytes={} if mix is None else largest,
        encode_s={
            name: {wire.name: wires.encode_s(boundary, wire) for wire in formats} for name, wires in costs.items()
        },
        decode_s={
            name: {wire.name: wires.decode_s(boundary, wire) for wire in formats} for name, wires in costs.items()
        },
    )


def _weights(chain: Chain, shares: Mapping[int, float]) -> tuple[tuple[int, ...], tuple[SharedEntry, ...]]:
    """Bytes of each unit's own weights, and the weights that several units read.

    Args:
        shares: what a unit's weights take of their bytes, in the precision of the hosts where that is most; else all.
    """
    users: dict[int, list[int]] = {}
    sizes: dict[int, Weight] = {}
    for unit in chain.units:
        for weight in unit.weights:
            users.setdefault(weight.key, []).append(unit.index)
            if weight.key not in sizes or sizes[weight.key].num_bytes < weight.num_bytes:
                sizes[weight.key] = weight
    own = [0] * len(chain.units)
    shared = []
    for key, units in users.items():
        if len(units) == 1:
            own[units[0]] += round(sizes[key].num_bytes * shares.get(units[0], 1.0))
        else:
            share = max(shares.get(unit, 1.0) for unit in units)
            shared.append(SharedEntry(units=tuple(units), num_bytes=round(sizes[key].num_bytes * share)))
    return tuple(own), tuple(shared)


def _saved(own_bytes: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Of a unit's weights, which are counted at the largest of the kinds' shares: what the other kinds save."""
    most = max(shares.values())
    saved = {name: round(own_bytes * (1 - share / most)) for name, share in shares.items() if share < most}
    return {name: value for name, value in saved.items() if value}


def _scheduling(request: CompileRequest, chain: Chain, items: float) -> Scheduling:
    """`items`: of a message, on average."""
    asked, limits = request.schedule, request.schedule.constraints
    uncuttable = {(cut.index - 1, cut.index) for cut in chain.boundaries if not cut.cuttable}
    return Scheduling(
        method=asked.method.value,
        wire=request.wire.format.value,
        per_cut=tuple(name.value for name in request.wire.per_cut),
        latency_limit_s=limits.latency_limit_s,
        period_limit_s=None if limits.min_throughput is None else items / limits.min_throughput,
        max_hosts=limits.max_hosts,
        exclude=limits.exclude,
        host_order=limits.host_order,
        pins=tuple(
            Pinned(units=unit_range(pin.units, chain, f"schedule.constraints.pin.{pin.units}"), hosts=pin.hosts)
            for pin in limits.pins
        ),
        together=tuple(units for units in _together(limits, chain) if units not in uncuttable),
        state_budget=asked.state_budget,
        messages=_messages(request.generation),
    )


def _messages(generation: GenerationRequest | None) -> int:
    """That follow each other, where what counts is the last one's end: a prompt's chunks."""
    if generation is None or generation.objective is not TextObjective.FIRST_TOKEN:
        return 1
    return ceil(generation.prompt / generation.chunk)


def _together(limits: ConstraintsRequest, chain: Chain) -> list[tuple[int, int]]:
    spans = []
    for index, names in enumerate(limits.together):
        ranges = [unit_range(name, chain, f"schedule.constraints.together.{index}") for name in names]
        spans.append((min(first for first, _ in ranges), max(last for _, last in ranges)))
    return spans
