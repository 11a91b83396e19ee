"""The inputs of planning and the schedule option -> the assignment of units to hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from edgecompile.config.methods import ScheduleMethod
from edgecompile.config.schedule_request import ScheduleRequest
from edgecompile.contract.closed_sets import Objective
from edgecompile.contract.errors import UserError
from edgecompile.frontend.chain.blocks import (
    block_starts,
    cut_positions,
    cuts_of_ranges,
    pipeedge_cuts,
    sublayer_starts,
)
from edgecompile.frontend.chain.units import Chain
from edgecompile.planning.baselines import greedy_memory, pipeedge, pipeedge_shipped
from edgecompile.planning.planning_inputs import PlanningInputs, any_format, formats_at, state_problem
from edgecompile.planning.problem import Assignment, Infeasible, Problem, Schedule
from edgecompile.planning.solver import evaluate, solve
from edgecompile.wire.formats import check_per_cut

__all__ = ["partition"]

CONFIG_WORDS = {
    "period_limit_s": "the period that schedule.constraints.min_throughput asks for",
    "latency_limit_s": "schedule.constraints.max_latency",
    "max_hosts": "schedule.constraints.max_hosts",
    "excluded_hosts": "schedule.constraints.exclude",
    "host_order": "schedule.constraints.host_order",
    "pins": "schedule.constraints.pin",
    "together": "schedule.constraints.together",
    "state_budget": "schedule.state_budget",
}
"""What the user wrote, by the problem's fields."""


def partition(inputs: PlanningInputs, chain: Chain, request: ScheduleRequest) -> Schedule:
    """Which host runs which units: chooses or takes the stages, and costs them.

    Raises:
        Infeasible: no assignment fits the hosts' memory or the constraints.
        UserError: a manual partition that does not cover the model, names that nothing goes by, or figures that the
            scheduler does not take.
    """
    method = request.method
    problem = state_problem(inputs, any_format(inputs))
    if method is ScheduleMethod.exact:
        with _users_figures():
            return solve(problem, CONFIG_WORDS)
    hosts = [inputs.host_names.index(name) for name in request.hosts]
    if method in _BASELINES:
        assignments = _baseline(method, problem, inputs, chain, hosts)
    else:
        assignments = _given(method, problem, chain, request, hosts)
    starts = [stage.first for stage in assignments]
    check_per_cut(inputs.scheduling.per_cut, len(starts) - 1)
    with_formats = state_problem(inputs, formats_at(inputs, starts))
    with _users_figures():
        try:
            evaluated = evaluate(with_formats, assignments)
        except Infeasible as reason:
            raise Infeasible(f"schedule={method.value}: {reason}") from None
        return _compared(evaluated, _unbound(problem, inputs), inputs)


def _given(
    method: ScheduleMethod, problem: Problem, chain: Chain, request: ScheduleRequest, hosts: Sequence[int]
) -> tuple[Assignment, ...]:
    """The stages that the user gives, or that are alike; raises UserError where no cut is possible."""
    if method is ScheduleMethod.single:
        starts = [0]
    elif method is ScheduleMethod.even:
        starts = _even_starts(problem, hosts)
    else:
        starts = [0, *_manual_cuts(chain, request)]
    if len(starts) > len(hosts):
        raise UserError(
            f"schedule: {len(starts)} stages need as many hosts, but there are {len(hosts)}: "
            f"add hosts (devices=local hosts.count={len(starts)}) or drop stages"
        )
    ends = [*starts[1:], len(chain.units)]
    for start in starts[1:]:
        if not chain.boundaries[start].cuttable:
            raise UserError(f"schedule: no cut is possible before unit {start} ({chain.units[start].op})")
    triples = zip(starts, ends, hosts, strict=False)
    return tuple(Assignment(first=start, last=end - 1, host=host) for start, end, host in triples)


_BASELINES = (ScheduleMethod.pipeedge, ScheduleMethod.pipeedge_shipped, ScheduleMethod.greedy_memory)


def _baseline(
    method: ScheduleMethod, problem: Problem, inputs: PlanningInputs, chain: Chain, hosts: Sequence[int]
) -> tuple[Assignment, ...]:
    """What another system's scheduler chooses. Its layers are units where the model has no transformer blocks."""
    units = [0, *(unit.index for unit in chain.units[1:] if chain.boundaries[unit.index].cuttable)]
    try:
        if method is ScheduleMethod.pipeedge:
            return pipeedge(problem, units, hosts)
        if method is ScheduleMethod.pipeedge_shipped:
            return pipeedge_shipped(problem, _cuttable(sublayer_starts(chain), units), hosts)
    except Infeasible as reason:
        raise Infeasible(f"schedule={method.value}: {reason}") from None
    memory = [host.limits.memory_bytes for host in inputs.hosts]
    return greedy_memory(_cuttable(block_starts(chain), units), len(chain.units), hosts, memory, inputs.host_names)


def _cuttable(layers: Sequence[int], units: Sequence[int]) -> list[int]:
    known = set(units)
    return [start for start in layers if start in known] or list(units)


@contextmanager
def _users_figures() -> Iterator[None]:
    """Around the scheduler: what it refuses comes from the config, so it is the user's error."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the scheduler rejected the figures of this model and cluster: {error}") from error


def _compared(given: Schedule, unbound: Problem, inputs: PlanningInputs) -> Schedule:
    """A given schedule with the best period that these hosts and formats allow as its lower bound.

    `unbound` is the problem of any stages on any hosts. Where several formats may be at a boundary, each at its best,
    or where the search is over its budget, the bound is no plan's period: the certificate's method then is `given`, as
    it is where no bound but the scheduler's own was found.
    """
    certificate = given.certificate
    try:
        best = solve(unbound).certificate
    except Infeasible:  # nothing was found within the budget: the given stages themselves do fit
        return given
    bound_s = min(max(best.lower_bound_s, certificate.lower_bound_s), given.period_s)
    attained = best.gap == 0 and len(set(inputs.scheduling.per_cut)) <= 1
    method = inputs.scheduling.method if attained else certificate.method
    certificate = replace(certificate, method=method, lower_bound_s=bound_s, gap=1 - bound_s / given.period_s)
    return replace(given, certificate=certificate)


def _unbound(problem: Problem, inputs: PlanningInputs) -> Problem:
    """Without the user's constraints, which given stages need not keep."""
    return replace(problem, objective=Objective.PERIOD, latency_limit_s=None, period_limit_s=None, pins=(),
                   together=inputs.uncuttable, excluded_hosts=(), host_order=None, max_hosts=None)  # fmt: skip


def _manual_cuts(chain: Chain, request: ScheduleRequest) -> list[int]:
    """Where stages begin after the first; the request has exactly one of the three ways to say it."""
    if request.cuts:
        return cut_positions(request.cuts, chain)
    if request.units:
        return cuts_of_ranges(request.units, len(chain.units) - 1, "schedule.units")
    return pipeedge_cuts(request.pipeedge_partition, chain)


def _even_starts(problem: Problem, hosts: Sequence[int]) -> list[int]:
    """Least longest stage over as many stages as hosts, all timed as the first host: chains-on-chains, by table."""
    kind = problem.kinds[problem.hosts[hosts[0]].kind]
    prefix = np.concatenate([[0.0], np.cumsum(kind.unit_s)])
    num_units = len(kind.unit_s)
    allowed = np.ones(num_units + 1, dtype=bool)
    for first, last in problem.together:
        allowed[first + 1 : last + 1] = False
    num_stages = min(len(hosts), int(allowed[:num_units].sum()))
    longest = np.full(num_units + 1, np.inf)
    longest[0] = 0.0
    choice = np.zeros((num_stages + 1, num_units + 1), dtype=int)
    for stage in range(1, num_stages + 1):
        following = np.full(num_units + 1, np.inf)
        for end in range(stage, num_units + 1):
            if not allowed[end] and end != num_units:
                continue
            costs = np.maximum(longest[:end], prefix[end] - prefix[:end])
            choice[stage, end] = int(np.argmin(costs))
            following[end] = costs[choice[stage, end]]
        longest = following
    starts = []
    end = num_units
    for stage in range(num_stages, 0, -1):
        end = int(choice[stage, end])
        starts.append(end)
    return starts[::-1]
