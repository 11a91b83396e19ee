"""Finds what limits a plan's period, what comes next, and what the certificate proves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_time
from edgecompile.explore.proof import figure_of
from edgecompile.explore.timeline.simulation import interfaces_of
from edgecompile.planning.from_plan import of_plan
from edgecompile.planning.problem import Assignment, Infeasible, Problem, Schedule
from edgecompile.planning.solver import evaluate

__all__ = ["Load", "Shift", "certificate_in_words", "ideal_period_s", "loads", "shifts"]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Something that every microbatch occupies for a time; the longest sets the period."""

    what: str
    time_s: float


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One cut moved to the next place where a cut may be."""

    unit: int
    """Where the later of the two stages would begin."""
    what: str
    period_s: float | None
    """None: a stage would not fit in memory."""


def loads(problem: Problem, schedule: Schedule) -> list[Load]:
    """All stages, transfers and shared interfaces, the longest first."""
    names = [host.name for host in problem.hosts]
    ends = [problem.data_host or 0, *(stage.host for stage in schedule.stages), problem.data_host or 0]
    transfers = [*(stage.receive_s for stage in schedule.stages), schedule.stages[-1].send_s]
    found = [
        Load(what=f"stage {index} on {names[stage.host]}", time_s=stage.compute_s)
        for index, stage in enumerate(schedule.stages)
    ]
    for boundary, time_s in enumerate(transfers):
        source, destination = ends[boundary], ends[boundary + 1]
        if source != destination:
            found.append(Load(what=f"link {names[source]} -> {names[destination]}", time_s=time_s))
    for what, boundaries in interfaces_of(problem, ends):
        whole = "the shared medium" if what == "medium" else f"all that {names[ends[0]]} {what}"
        found.append(Load(what=whole, time_s=sum(transfers[boundary] for boundary in boundaries)))
    return sorted(found, key=lambda load: -load.time_s)


def shifts(plan: Plan, problem: Problem, schedule: Schedule) -> list[Shift]:
    """What the period would be with one cut beside the bottleneck moved by one place, either way."""
    stages = schedule.stages
    found = schedule.bottleneck
    if found.kind == "stage":
        assert found.stage is not None
        moves = [(found.stage, 1), (found.stage + 1, -1)]  # a unit less at its front, one less at its end
    elif found.kind == "link":
        moves = [(cut, way) for cut in _cuts_between(schedule, found.hosts) for way in (-1, 1)]
    else:
        moves = []
    result = []
    for later, way in moves:
        if 0 < later < len(stages):
            begin = _next_cut(problem, stages[later].first, way)
            if stages[later - 1].first < begin <= stages[later].last:
                result.append(_shift(plan, problem, schedule, later, begin))
    return result


def _cuts_between(schedule: Schedule, hosts: tuple[int, ...]) -> Iterator[int]:
    for index in range(1, len(schedule.stages)):
        if (schedule.stages[index - 1].host, schedule.stages[index].host) == hosts:
            yield index


def _next_cut(problem: Problem, unit: int, way: int) -> int:
    """The next unit that may begin a stage, forwards or backwards."""
    unit += way
    while any(first < unit <= last for first, last in problem.together):
        unit += way
    return unit


def _shift(plan: Plan, problem: Problem, schedule: Schedule, later: int, begin: int) -> Shift:
    assignments = [Assignment(first=stage.first, last=stage.last, host=stage.host) for stage in schedule.stages]
    before = assignments[later].first
    assignments[later - 1] = replace(assignments[later - 1], last=begin - 1)
    assignments[later] = replace(assignments[later], first=begin)
    moved = range(min(before, begin), max(before, begin))
    goes_to = later - 1 if begin > before else later
    units = plan.units[moved[0]].op if len(moved) == 1 else f"{plan.units[moved[0]].op} to {plan.units[moved[-1]].op}"
    try:
        with of_plan():
            period_s = evaluate(problem, assignments).period_s
    except Infeasible:
        period_s = None
    return Shift(unit=begin, what=f"{units} on stage {goes_to} too", period_s=period_s)


def ideal_period_s(problem: Problem) -> float:
    """If the work could be divided at will and sending took no time: all hosts' speeds added up."""
    usable = set(range(len(problem.hosts)) if problem.host_order is None else problem.host_order)
    usable -= set(problem.excluded_hosts)
    rates = sorted(1.0 / max(sum(problem.kinds[problem.hosts[host].kind].unit_s), 1e-12) for host in usable)
    return 1.0 / sum(rates[-problem.max_hosts :] if problem.max_hosts else rates)


def certificate_in_words(plan: Plan, best: Schedule) -> str:
    """What is proved about the plan, and what is not; `best` is what solving again gives."""
    found = plan.certificate
    figure, own_s = figure_of(plan)
    space = f"{len(plan.units)} units on {len(plan.cluster)} hosts" + (
        ", within what was asked for," if _is_constrained(plan) else ""
    )
    if plan.scheduling.method != "exact":
        against = (
            f"the best plan's period is {format_time(best.period_s)}"
            if best.period_s < plan.predicted.period_s
            else "no other has a shorter period"
        )
        return f"The stages were given (schedule={plan.scheduling.method}), not searched for: {against}."
    if found.gap == 0:
        ties = "" if found.method == "exact" else " Among plans of equal period another may have less latency."
        return (
            f"Proved: of all ways to cut {space} and all orders of the hosts, none has a {figure} below "
            f"{format_time(own_s)}.{ties} The proof is about the figures in the plan; only a run shows if they hold."
        )
    return (
        f"Not proved best: the search reached its budget of {plan.scheduling.state_budget:,} combinations. No plan of "
        f"{space} has a {figure} below {format_time(found.lower_bound_s)}: this one is at most {found.gap:.1%} from it."
    )


def _is_constrained(plan: Plan) -> bool:
    asked = plan.scheduling
    limits = (asked.latency_limit_s, asked.period_limit_s, asked.max_hosts, asked.host_order)
    return any(limit is not None for limit in limits) or bool(asked.exclude or asked.pins or asked.together)
