"""Explains why a unit runs where it does: the cost of the best plan that places it elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_time
from edgecompile.planning.from_plan import of_plan, planned_again
from edgecompile.planning.problem import Infeasible, Pin, Problem, Schedule
from edgecompile.planning.solver import solve

__all__ = ["Elsewhere", "Placement", "find_units", "placement_of"]


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """The best plan with the units on one host."""

    host: str
    throughput_items_per_s: float | None
    latency_s: float | None
    gain: float | None
    """Of throughput, to the best plan: -0.1 is a tenth less."""
    units_s: float
    """What the units take there."""
    verdict: str
    """In words."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    units: tuple[int, int]
    """First and last, 0-based."""
    first_op: str
    last_op: str
    hosts: tuple[str, ...]
    """Where the plan runs them."""
    best_hosts: tuple[str, ...]
    """Where the best plan does, which for given stages may be elsewhere."""
    weight_bytes: int
    flops: int
    elsewhere: tuple[Elsewhere, ...]


def find_units(plan: Plan, name: str) -> tuple[int, int]:
    """First and last unit of a number, a range `3-7`, an operator, or a module and all below it.

    Raises:
        UserError: nothing in the plan goes by that name.
    """
    last = len(plan.units) - 1
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", name):
        first, final = int(match[1]), int(match[2] or match[1])
        if not first <= final <= last:
            raise UserError(f"--unit {name}: this plan's units are 0 to {last}")
        return first, final
    found = [unit.unit for unit in plan.units if _belongs(unit.op, name)]
    if not found:
        modules = sorted({_module(unit.op) for unit in plan.units}, key=lambda item: (_distance(item, name), item))
        raise UserError(f"--unit {name}: no unit and no module goes by that name; near it are {', '.join(modules[:6])}")
    return found[0], found[-1]


def _module(op: str) -> str:
    """`vit.layers.5:add#2` -> `vit.layers.5`."""
    return op.partition("#")[0].partition(":")[0]


def _belongs(op: str, name: str) -> bool:
    return op == name or _module(op) == name or _module(op).startswith(name + ".")


def _distance(module: str, name: str) -> int:
    """How many of the dotted parts two names do not share."""
    return len(set(module.split(".")) ^ set(name.split(".")))


def placement_of(plan: Plan, units: tuple[int, int]) -> Placement:
    """Solves once for each host, with the units pinned to it.

    Raises:
        Infeasible: no plan fits at all.
    """
    first, last = units
    problem, best = planned_again(plan)
    own = [stage for stage in plan.stages if stage.units[0] <= last and first <= stage.units[1]]
    return Placement(
        units=units,
        first_op=plan.units[first].op,
        last_op=plan.units[last].op,
        hosts=tuple(plan.hosts[stage.rank].name for stage in own),
        best_hosts=_hosts_in(best, plan, units),
        weight_bytes=sum(unit.weight_bytes for unit in plan.units[first : last + 1]),
        flops=sum(unit.flops for unit in plan.units[first : last + 1]),
        elsewhere=tuple(_elsewhere(plan, problem, best, units, host) for host in range(len(problem.hosts))),
    )


def _hosts_in(schedule: Schedule, plan: Plan, units: tuple[int, int]) -> tuple[str, ...]:
    return tuple(
        plan.cluster[stage.host] for stage in schedule.stages if stage.first <= units[1] and units[0] <= stage.last
    )


def _elsewhere(plan: Plan, problem: Problem, best: Schedule, units: tuple[int, int], host: int) -> Elsewhere:
    name = plan.cluster[host]
    kind = problem.kinds[problem.hosts[host].kind]
    units_s = sum(kind.unit_s[units[0] : units[1] + 1])
    bound = replace(problem, pins=(*problem.pins, Pin(units=units, hosts=(host,))))
    try:
        with of_plan():
            schedule = solve(bound)
    except Infeasible as error:
        return Elsewhere(host=name, throughput_items_per_s=None, latency_s=None, gain=None, units_s=units_s,
                         verdict=f"no plan: {error}")  # fmt: skip
    verdict = "the best plan" if _hosts_in(best, plan, units) == (name,) else _verdict(plan, best, schedule)
    return Elsewhere(
        host=name,
        throughput_items_per_s=plan.items_per_message / schedule.period_s,
        latency_s=schedule.latency_s,
        gain=best.period_s / schedule.period_s - 1,
        units_s=units_s,
        verdict=verdict,
    )


def _verdict(plan: Plan, best: Schedule, other: Schedule) -> str:
    """What the plan with the units elsewhere loses, by the figures that decide in their order."""
    period = ("period", other.period_s - best.period_s)
    latency = ("latency", other.latency_s - best.latency_s)
    order = (latency, period) if plan.objective == "latency" else (period, latency)
    for figure, more_s in order:
        if more_s > 0:
            return f"{figure} {format_time(more_s)} longer"
    if len(other.stages) > len(best.stages):
        return f"as good, with {len(other.stages)} hosts, not {len(best.stages)}"
    return "as good in period, latency and hosts: the order of the hosts decides"
