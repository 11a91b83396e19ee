"""Records the scheduling problem in the plan, so that it can be solved again without the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgecompile.config.domain import Cluster
from edgecompile.config.schema import Conf
from edgecompile.contract import cluster as plan_cluster
from edgecompile.contract import costs as plan_costs
from edgecompile.frontend.chain.units import Chain
from edgecompile.partition.machines import device_entries
from edgecompile.partition.stages import build_problem
from edgecompile.planning.problem import Problem
from edgecompile.profile.analytic import Profile
from edgecompile.wire.formats import FORMATS

__all__ = ["Recorded", "recorded"]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The fields of the plan by these names."""

    devices: tuple[plan_cluster.Device, ...]
    scheduling: plan_costs.Scheduling
    boundaries: tuple[plan_costs.BoundaryEntry, ...]
    shared_weights: tuple[plan_costs.SharedEntry, ...]
    units: tuple[plan_costs.UnitEntry, ...]


def recorded(conf: Conf, chain: Chain, profile: Profile, cluster: Cluster) -> Recorded:
    """The problem in every wire format, as the plan holds it."""
    problems = {
        name: build_problem(chain, profile, cluster, replace(conf, wire=replace(conf.wire, format=name, per_cut=[])))
        for name in FORMATS
    }
    problem = problems["fp32"]
    boundaries, numbers = _boundaries(problems)
    units = tuple(
        plan_costs.UnitEntry(
            unit=unit.index,
            op=unit.op,
            boundary=numbers[unit.index],
            cuttable=chain.boundaries[unit.index].cuttable,
            flops=unit.flops,
            weight_bytes=problem.weight_bytes[unit.index],
            activation_bytes=problem.activation_bytes[unit.index],
            time_s={kind.name: kind.unit_s[unit.index] for kind in problem.kinds},
        )
        for unit in chain.units
    )
    shared = tuple(
        plan_costs.SharedEntry(units=item.units, num_bytes=item.num_bytes) for item in problem.shared_weights
    )
    return Recorded(
        devices=device_entries(cluster, problem),
        scheduling=_scheduling(conf, chain, problem),
        boundaries=boundaries,
        shared_weights=shared,
        units=units,
    )


def _boundaries(problems: dict[str, Problem]) -> tuple[tuple[plan_costs.BoundaryEntry, ...], list[int]]:
    """The distinct boundaries, the results' last, and which of them each cut has."""
    last = len(problems["fp32"].cut_bytes) - 1
    entries: list[plan_costs.BoundaryEntry] = []
    numbers = []
    for cut in range(last + 1):
        formats = list(problems) if 0 < cut < last else ["fp32"]
        entry = _boundary(problems, cut, formats)
        same = [] if cut in (0, last) else [item.boundary for item in entries[1:] if _like(item, entry)]
        if not same:
            entries.append(replace(entry, boundary=len(entries)))
        numbers.append(same[0] if same else len(entries) - 1)
    return tuple(entries), numbers


def _like(one: plan_costs.BoundaryEntry, other: plan_costs.BoundaryEntry) -> bool:
    return replace(one, boundary=other.boundary) == other


def _boundary(problems: dict[str, Problem], cut: int, formats: Sequence[str]) -> plan_costs.BoundaryEntry:
    def seconds(field: str) -> dict[str, dict[str, float]]:
        kinds = enumerate(problems["fp32"].kinds)
        return {
            kind.name: {name: getattr(problems[name].kinds[index], field)[cut] for name in formats}
            for index, kind in kinds
        }

    return plan_costs.BoundaryEntry(
        boundary=0,
        wire_bytes={name: problems[name].cut_bytes[cut] for name in formats},
        encode_s=seconds("encode_s"),
        decode_s=seconds("decode_s"),
    )


def _scheduling(conf: Conf, chain: Chain, problem: Problem) -> plan_costs.Scheduling:
    names = [host.name for host in problem.hosts]
    uncuttable = {(cut.index - 1, cut.index) for cut in chain.boundaries if not cut.cuttable}
    order = problem.host_order
    return plan_costs.Scheduling(
        method=conf.schedule.method.value,
        wire=conf.wire.format,
        per_cut=tuple(conf.wire.per_cut),
        latency_limit_s=problem.latency_limit_s,
        period_limit_s=problem.period_limit_s,
        max_hosts=problem.max_hosts,
        exclude=tuple(names[host] for host in problem.excluded_hosts),
        host_order=None if order is None else tuple(names[host] for host in order),
        pins=tuple(
            plan_costs.Pinned(units=pin.units, hosts=tuple(names[host] for host in pin.hosts)) for pin in problem.pins
        ),
        together=tuple(units for units in problem.together if units not in uncuttable),
        state_budget=problem.state_budget,
    )
