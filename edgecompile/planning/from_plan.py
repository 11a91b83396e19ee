"""Rebuilds the scheduling problem from a plan, without model and torch, so that it can be solved again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgecompile.contract.closed_sets import Objective
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.planning.planning_inputs import PlanningInputs, formats_at, one_format, state_problem
from edgecompile.planning.problem import Assignment, Problem, Schedule
from edgecompile.planning.solver import evaluate, solve

__all__ = ["as_planned", "assignments_of", "bottleneck_name", "inputs_of", "of_plan", "planned_again", "problem_of"]


def inputs_of(plan: Plan) -> PlanningInputs:
    """What the plan was made from."""
    return PlanningInputs(
        objective=Objective(plan.objective),
        hosts=plan.all_hosts,
        devices=plan.devices,
        network=plan.network,
        runtime=plan.runtime,
        scheduling=plan.scheduling,
        boundaries=plan.boundaries,
        shared_weights=plan.shared_weights,
        units=plan.units,
    )


def problem_of(plan: Plan, wire: str | None = None) -> Problem:
    """The problem as the compiler stated it, field for field.

    Args:
        wire: the format at every cut; None: as planned.

    Raises:
        UserError: the rate of an interface is unknown.
    """
    inputs = inputs_of(plan)
    formats = (
        formats_at(inputs, [stage.units[0] for stage in plan.stages]) if wire is None else one_format(inputs, wire)
    )
    return state_problem(inputs, formats)


def assignments_of(plan: Plan) -> tuple[Assignment, ...]:
    """The plan's own stages, by host of `problem_of`."""
    place = {name: index for index, name in enumerate(plan.cluster)}
    return tuple(
        Assignment(first=stage.units[0], last=stage.units[1], host=place[plan.hosts[stage.rank].name])
        for stage in plan.stages
    )


def planned_again(plan: Plan) -> tuple[Problem, Schedule]:
    """The best plan on the plan's hosts as they are now, and the problem that it solves.

    Formats of single cuts, which belong to the plan's own cuts, give way to `scheduling.wire`.

    Raises:
        Infeasible: no plan fits; says why.
    """
    problem = problem_of(plan, plan.scheduling.wire)
    with of_plan():
        return problem, _over_zero(solve(problem))


def as_planned(plan: Plan) -> tuple[Problem, Schedule]:
    """The plan's own stages with the figures as they are now, and the problem that they answer.

    Raises:
        Infeasible: a stage does not fit its host's memory.
    """
    problem = problem_of(plan)
    with of_plan():
        return problem, _over_zero(evaluate(problem, assignments_of(plan)))


def _over_zero(schedule: Schedule) -> Schedule:
    if schedule.period_s <= 0:
        raise UserError("every time rounds to 0 picoseconds: nothing can be planned with these figures")
    return schedule


@contextmanager
def of_plan() -> Iterator[None]:
    """Around the scheduler: a figure that it does not take is a plan's, or what a user would change in it."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the scheduler rejects the plan's figures: {error}") from None


def bottleneck_name(schedule: Schedule, names: Sequence[str]) -> str:
    """In words: `stage 1 on orin-1`, `link orin-1 -> nano-1`, `interface of orin-1`, `the shared medium`.

    Args:
        names: of the problem's hosts, in order.
    """
    found = schedule.bottleneck
    ends = [names[host] for host in found.hosts]
    if found.kind == "stage":
        return f"stage {found.stage} on {ends[0]}"
    if found.kind == "link":
        return f"link {ends[0]} -> {ends[1]}"
    if found.kind == "interface":
        return f"interface of {ends[0]}"
    return "the shared medium"
