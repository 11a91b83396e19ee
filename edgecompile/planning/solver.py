"""Solves a scheduling problem with the native scheduler and returns a certified schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgecompile.contract.closed_sets import Objective
from edgecompile.contract.quantities import format_bytes
from edgecompile.planning.infeasible import explain
from edgecompile.planning.native_bridge import (
    assignments_of,
    is_proved,
    native_module,
    plan_of,
    schedule_of,
    spec_of,
)
from edgecompile.planning.problem import Assignment, Certificate, Infeasible, Problem, Schedule

__all__ = ["evaluate", "pareto", "solve"]

_MOST_STEPS = 100
"""Of the search for several messages, each as long as one for a single message; what is open then is the gap."""
_PS = 10**12
"""The scheduler's own unit: whole picoseconds."""


def solve(problem: Problem, words: Mapping[str, str] | None = None) -> Schedule:
    """The best plan, with its certificate.

    Args:
        words: what the user calls the problem's fields, for the reason why there is no plan; None: as here.

    Raises:
        ValueError: the problem is malformed; names field and index.
        Infeasible: no plan fits; says why.
    """
    if problem.messages < 1:
        raise ValueError(f"messages is {problem.messages}: expected 1 or more")
    if problem.objective is Objective.LATENCY and problem.messages > 1:
        return _of_several(problem, words)
    return _best(problem, words)


def _best(problem: Problem, words: Mapping[str, str] | None) -> Schedule:
    spec = spec_of(problem)
    solution = native_module().solve(spec)
    if not solution.feasible:
        if is_proved(solution):
            raise Infeasible(explain(problem, solution.furthest_cut, words))
        raise Infeasible(
            f"no plan was found within {(words or {}).get('state_budget', 'state_budget')} = {problem.state_budget:,}, "
            "which does not prove that there is none: raise the budget, or leave hosts out"
        )
    return schedule_of(problem, solution)


def _of_several(problem: Problem, words: Mapping[str, str] | None) -> Schedule:
    """The plan that has the least latency + (messages - 1) * period.

    Every plan that is better than the best so far has a shorter period than (its time - the least latency) / (messages
    - 1). So plans of the least latency are searched for below that limit, which falls with each, until there is none:
    a few searches for one message, and as exact as they are.
    """
    more = problem.messages - 1

    def whole_ps(schedule: Schedule) -> int:
        return round(schedule.latency_s * _PS) + more * round(schedule.period_s * _PS)

    found = _best(problem, words)
    fastest = _best(replace(problem, objective=Objective.PERIOD), words)
    best = min(found, fastest, key=whole_ps)
    exact = found.certificate.gap == fastest.certificate.gap == 0
    least_ps, least_period_ps = (round(item.certificate.lower_bound_s * _PS) for item in (found, fastest))
    closed = False
    for _ in range(_MOST_STEPS):
        limit_ps = (whole_ps(best) - least_ps - 1) // more  # the longest period that a better plan may have
        closed = limit_ps < least_period_ps
        if closed:
            break
        limit_s = limit_ps / _PS if problem.period_limit_s is None else min(limit_ps / _PS, problem.period_limit_s)
        solution = native_module().solve(spec_of(replace(problem, period_limit_s=limit_s)))
        if not solution.feasible:
            closed = is_proved(solution)
            break
        found = schedule_of(problem, solution)
        exact = exact and found.certificate.gap == 0
        least_ps = max(least_ps, round(found.certificate.lower_bound_s * _PS))
        best = min(best, found, key=whole_ps)
    value_ps = whole_ps(best)
    bound_ps = value_ps if closed and exact else min(value_ps, least_ps + more * least_period_ps)
    certificate = Certificate(
        method="exact" if closed and exact else "bounded", period_s=best.period_s, lower_bound_s=bound_ps / _PS,
        gap=1 - bound_ps / value_ps if value_ps > bound_ps else 0.0,
    )  # fmt: skip
    return replace(best, certificate=certificate)


def pareto(problem: Problem) -> tuple[Schedule, ...]:
    """All trade-offs of period, latency and number of hosts: no plan is as good in all three as one of these.

    In order of hosts, then period; the certificate of each says that this is proved. Limits and constraints of the
    problem hold; its objective does not matter.

    Raises:
        ValueError: the problem is malformed, or over its state budget.
        Infeasible: no plan fits; says why.
    """
    spec = spec_of(problem)
    plans = native_module().pareto(spec)
    if not plans:
        raise Infeasible(explain(problem, 0))
    return tuple(
        plan_of(plan, method="exact", lower_bound_ps=plan.period_ps, objective_ps=plan.period_ps) for plan in plans
    )


def evaluate(problem: Problem, assignments: Sequence[Assignment]) -> Schedule:
    """What a given plan costs, in the same cost model; pins, orders and limits are not checked.

    Raises:
        ValueError: the problem is malformed, or the assignments leave gaps, overlap, go beyond the last unit or use a
            host twice.
        Infeasible: a stage does not fit its host's memory.
    """
    spec = spec_of(problem)
    module = native_module()
    plan = module.evaluate(spec, assignments_of(assignments))
    for index, stage in enumerate(plan.stages):
        host = problem.hosts[stage.host]
        if stage.memory_bytes > host.memory_bytes:
            raise Infeasible(
                f"stage {index} (units {stage.first}-{stage.last}) needs {format_bytes(stage.memory_bytes, 4)} on "
                f"{host.name}, which has {format_bytes(host.memory_bytes, 4)}: "
                f"short by {format_bytes(stage.memory_bytes - host.memory_bytes, 4)}"
            )
    return plan_of(plan, method="given", lower_bound_ps=module.lower_bound_ps(spec), objective_ps=plan.period_ps)
