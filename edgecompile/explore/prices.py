"""Shadow prices: the best plan with one step more of each resource, found by solving again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_bytes, format_rate
from edgecompile.explore.changes import with_host, with_limits, with_pair, with_speed, without_host
from edgecompile.planning.from_plan import assignments_of, of_plan, planned_again, problem_of
from edgecompile.planning.problem import Schedule
from edgecompile.planning.solver import evaluate

__all__ = ["BANDWIDTH_STEP", "COMPUTE_STEP", "MEMORY_STEP", "Change", "Price", "changes_of", "price_of", "wire_changes"]

COMPUTE_STEP = 1.1
MEMORY_STEP = 1.25
BANDWIDTH_STEP = 2.0
MOST_PAIRS = 400
"""More links than these are not asked about one by one: only those that the plan uses."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One what-if."""

    kind: str
    """`compute`, `memory`, `bandwidth`, `more`, `loss` or `wire`."""
    target: str
    """A host, a link `a -> b`, `the shared medium`, a device kind, or a wire format."""
    what: str
    """In words."""
    make: Callable[[Plan], Plan]
    keeps_hosts: bool = True
    """Whether the plan's own stages still mean something."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a change brings: the best plan with it, and the plan's own stages with it."""

    kind: str
    target: str
    what: str
    throughput_items_per_s: float | None
    """Of the best plan; None: there is none."""
    latency_s: float | None
    gain: float | None
    """Of throughput, to the best plan as things are: 0.1 is a tenth more."""
    same_stages_items_per_s: float | None
    """None: the stages do not fit, or lost a host."""
    num_hosts: int
    """That run a stage."""
    proved: bool
    """Whether no plan is better; else the search was over its budget."""
    why_not: str = ""
    """Where there is no plan."""


def changes_of(plan: Plan) -> Iterator[Change]:
    """One step more of each limit, one more host of each kind, and each host lost."""
    for host in plan.all_hosts:
        yield Change(
            kind="compute",
            target=host.name,
            what=f"{host.name} {COMPUTE_STEP - 1:.0%} faster in all it computes",
            make=partial(with_speed, name=host.name, factor=COMPUTE_STEP),
        )
    for host in plan.all_hosts:
        size = round(host.limits.memory_bytes * MEMORY_STEP)
        yield Change(
            kind="memory",
            target=host.name,
            what=f"{host.name} with {MEMORY_STEP - 1:.0%} more memory, {format_bytes(size)}",
            make=partial(with_limits, name=host.name, memory_bytes=size),
        )
    yield from _bandwidths(plan)
    for device in plan.devices:
        yield Change(
            kind="more",
            target=device.name,
            what=f"one more {device.name} ({format_bytes(device.memory_bytes)}, "
            f"{format_rate(device.network_bytes_per_s)})",
            make=partial(with_host, device=device),
        )
    for host in plan.all_hosts if len(plan.cluster) > 1 else ():
        heir = f": {plan.cluster[1]} feeds the inputs then" if host.name == plan.cluster[0] else ""
        yield Change(
            kind="loss",
            target=host.name,
            what=f"without {host.name}{heir}",
            make=partial(without_host, name=host.name),
            keeps_hosts=False,
        )


def _bandwidths(plan: Plan) -> Iterator[Change]:
    if len(plan.cluster) == 1:
        return
    if plan.network.model == "pairwise":
        for source, destination in _pairs(plan):
            limits = {host.name: host.limits for host in plan.all_hosts}
            figures = plan.network.figures((source, limits[source]), (destination, limits[destination]))
            if figures is not None:
                yield _link_change(source, destination, figures[0] * BANDWIDTH_STEP)
        return
    channel = plan.network.bandwidth_bytes_per_s
    if channel is not None:
        yield Change(
            kind="bandwidth",
            target="the shared medium",
            what=f"the shared medium {BANDWIDTH_STEP:g} times as fast, {format_rate(channel * BANDWIDTH_STEP)}",
            make=partial(_with_channel, rate=channel * BANDWIDTH_STEP),
        )
    yield Change(
        kind="bandwidth",
        target="every interface",
        what=f"every interface {BANDWIDTH_STEP:g} times as fast",
        make=_with_interfaces,
    )
    for host in plan.all_hosts:
        rate = host.limits.bandwidth_bytes_per_s
        if rate is not None:
            yield Change(
                kind="bandwidth",
                target=host.name,
                what=f"{host.name}'s interface {BANDWIDTH_STEP:g} times as fast, {format_rate(rate * BANDWIDTH_STEP)}",
                make=partial(with_limits, name=host.name, bandwidth_bytes_per_s=rate * BANDWIDTH_STEP),
            )


def _link_change(source: str, destination: str, rate: float) -> Change:
    return Change(
        kind="bandwidth",
        target=f"{source} -> {destination}",
        what=f"link {source} -> {destination} {BANDWIDTH_STEP:g} times as fast, {format_rate(rate)}",
        make=partial(with_pair, source=source, destination=destination, bandwidth_bytes_per_s=rate),
    )


def _with_channel(plan: Plan, rate: float) -> Plan:
    return replace(plan, network=replace(plan.network, bandwidth_bytes_per_s=rate))


def _with_interfaces(plan: Plan) -> Plan:
    for host in plan.all_hosts:
        rate = host.limits.bandwidth_bytes_per_s
        if rate is not None:
            plan = with_limits(plan, host.name, bandwidth_bytes_per_s=rate * BANDWIDTH_STEP)
    return plan


def _pairs(plan: Plan) -> list[tuple[str, str]]:
    """All ordered pairs of hosts, or where these are too many, those that the plan uses."""
    names = plan.cluster
    if len(names) * (len(names) - 1) <= MOST_PAIRS:
        return [(first, second) for first in names for second in names if first != second]
    path = [names[0], *(plan.hosts[stage.rank].name for stage in plan.stages), names[0]]
    return sorted({(first, second) for first, second in pairwise(path) if first != second})


def wire_changes(plan: Plan) -> Iterator[Change]:
    """Each wire format at every cut."""
    for name in dict.fromkeys(name for entry in plan.boundaries for name in entry.wire_bytes):
        yield Change(
            kind="wire",
            target=name,
            what=f"wire={name}",
            make=partial(_with_wire, name=name),
        )


def _with_wire(plan: Plan, name: str) -> Plan:
    return replace(plan, scheduling=replace(plan.scheduling, wire=name, per_cut=()))


def price_of(plan: Plan, best: Schedule, change: Change) -> Price:
    """Solves again; `best` is the best plan as things are."""
    throughput = latency_s = gain = None
    num_hosts, proved, why_not = 0, True, ""
    changed = None
    try:
        changed = change.make(plan)
        _, schedule = planned_again(changed)
        throughput = plan.items_per_message / schedule.period_s
        latency_s, gain = schedule.latency_s, best.period_s / schedule.period_s - 1
        num_hosts, proved = len(schedule.stages), schedule.certificate.gap == 0
    except UserError as error:
        why_not = str(error)
    return Price(
        kind=change.kind,
        target=change.target,
        what=change.what,
        throughput_items_per_s=throughput,
        latency_s=latency_s,
        gain=gain,
        same_stages_items_per_s=_same_stages(plan, changed) if changed is not None and change.keeps_hosts else None,
        num_hosts=num_hosts,
        proved=proved,
        why_not=why_not,
    )


def _same_stages(plan: Plan, changed: Plan) -> float | None:
    try:
        with of_plan():
            kept = evaluate(problem_of(changed), assignments_of(plan))
    except UserError:
        return None
    return plan.items_per_message / kept.period_s if kept.period_s else None
