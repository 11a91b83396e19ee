"""Rebuilds the scheduling problem from a plan, without model and torch, so that it can be solved again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgecompile.contract.cluster import Limits, Network
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.planning.memory import most_ends_bytes
from edgecompile.planning.problem import (
    Assignment,
    HostLinks,
    Kind,
    Objective,
    PairwiseLinks,
    Pin,
    Problem,
    SchedHost,
    Schedule,
    SharedMedium,
    SharedWeight,
)
from edgecompile.planning.solver import evaluate, solve

__all__ = ["as_planned", "assignments_of", "bottleneck_name", "links_of", "of_plan", "planned_again", "problem_of"]

RAW = "fp32"


def problem_of(plan: Plan, wire: str | None = None) -> Problem:
    """The problem as the compiler stated it, field for field.

    Args:
        wire: the format at every cut; None: as planned.

    Raises:
        UserError: the rate of an interface is unknown.
    """
    formats = _formats(plan, wire)
    entries = [*(plan.boundaries[unit.boundary] for unit in plan.units), plan.boundaries[-1]]
    cuts = list(zip(entries, formats, strict=True))
    sizes = tuple(entry.wire_bytes[name] for entry, name in cuts)
    kinds = tuple(
        Kind(
            name=device.name,
            unit_s=tuple(unit.time_s[device.name] for unit in plan.units),
            encode_s=tuple(entry.encode_s[device.name][name] for entry, name in cuts),
            decode_s=tuple(entry.decode_s[device.name][name] for entry, name in cuts),
            runtime_bytes=device.runtime_bytes,
        )
        for device in plan.devices
    )
    asked = plan.scheduling
    place = {name: index for index, name in enumerate(plan.cluster)}
    uncuttable = [(unit.unit - 1, unit.unit) for unit in plan.units if not unit.cuttable]
    order = asked.host_order
    return Problem(
        kinds=kinds,
        hosts=_hosts(plan, most_ends_bytes(plan.runtime, sizes[0], sizes[-1], len(plan.cluster))),
        links=links_of(plan.network, [(host.name, host.limits) for host in plan.all_hosts]),
        cut_bytes=sizes,
        weight_bytes=tuple(unit.weight_bytes for unit in plan.units),
        shared_weights=tuple(SharedWeight(units=item.units, num_bytes=item.num_bytes) for item in plan.shared_weights),
        activation_bytes=tuple(unit.activation_bytes for unit in plan.units),
        entry_bytes=tuple(plan.runtime.num_buffers_in * size for size in sizes),
        exit_bytes=tuple(plan.runtime.num_buffers_out * size for size in sizes),
        data_host=0,
        objective=Objective(plan.objective),
        latency_limit_s=asked.latency_limit_s,
        period_limit_s=asked.period_limit_s,
        pins=tuple(Pin(units=pin.units, hosts=tuple(place[host] for host in pin.hosts)) for pin in asked.pins),
        together=(*asked.together, *uncuttable),
        excluded_hosts=tuple(place[host] for host in asked.exclude),
        host_order=None if order is None else tuple(place[host] for host in order),
        max_hosts=asked.max_hosts,
        state_budget=asked.state_budget,
    )


def assignments_of(plan: Plan) -> tuple[Assignment, ...]:
    """The plan's own stages, by host of `problem_of`."""
    place = {name: index for index, name in enumerate(plan.cluster)}
    return tuple(
        Assignment(first=stage.units[0], last=stage.units[1], host=place[plan.hosts[stage.rank].name])
        for stage in plan.stages
    )


def _formats(plan: Plan, wire: str | None) -> list[str]:
    """The format of each cut; inputs and results travel as they are."""
    common = wire or plan.scheduling.wire
    formats = [RAW, *[common] * (len(plan.units) - 1), RAW]
    if wire is None:
        for stage, name in zip(plan.stages[1:], plan.scheduling.per_cut, strict=False):
            formats[stage.units[0]] = name
    return formats


def _hosts(plan: Plan, ends_bytes: int) -> tuple[SchedHost, ...]:
    kinds = [device.name for device in plan.devices]
    return tuple(
        SchedHost(
            name=host.name,
            kind=kinds.index(host.device),
            memory_bytes=host.limits.memory_bytes if index else max(0, host.limits.memory_bytes - ends_bytes),
            bandwidth_bytes_per_s=host.limits.bandwidth_bytes_per_s,
        )
        for index, host in enumerate(plan.all_hosts)
    )


def links_of(network: Network, hosts: Sequence[tuple[str, Limits]]) -> HostLinks | PairwiseLinks | SharedMedium:
    """The scheduler's view of a network between hosts, given by name and limits.

    Raises:
        UserError: the rate of an interface is unknown.
    """
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
