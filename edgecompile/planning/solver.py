"""Solves a scheduling problem with the native scheduler and returns a certified schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from edgecompile.planning.problem import Assignment, Infeasible, Problem, Schedule

__all__ = ["evaluate", "pareto", "solve"]


def solve(problem: Problem, words: Mapping[str, str] | None = None) -> Schedule:
    """The best plan, with its certificate.

    Args:
        words: what the user calls the problem's fields, for the reason why there is no plan; None: as here.

    Raises:
        ValueError: the problem is malformed; names field and index.
        Infeasible: no plan fits; says why.
    """
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
