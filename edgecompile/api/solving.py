"""solve() and problem(): which host runs which units, from a plan or from plain figures. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from edgecompile.contract.errors import UserError, choices
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.contract.quantities import format_time, parse_bytes, parse_rate, parse_time
from edgecompile.explore.changes import change, find_host, without_host
from edgecompile.planning.from_plan import bottleneck_name, planned_again
from edgecompile.planning.problem import (
    Certificate,
    HostLinks,
    Kind,
    Objective,
    Problem,
    SchedHost,
    Schedule,
    StageResult,
)
from edgecompile.planning.solver import evaluate
from edgecompile.planning.solver import solve as solve_problem

__all__ = ["Partition", "as_plan", "problem", "solve"]

_NO_LIMIT = 1 << 60
"""Bytes of memory, where nothing is said of it."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Partition:
    """Stages on hosts, what they cost, and what is proved of that."""

    problem: Problem
    schedule: Schedule

    @property
    def hosts(self) -> tuple[str, ...]:
        """The name of each stage's host."""
        return tuple(self.problem.hosts[stage.host].name for stage in self.schedule.stages)

    @property
    def units(self) -> tuple[tuple[int, int], ...]:
        """First and last unit of each stage, 0-based, both included."""
        return tuple((stage.first, stage.last) for stage in self.schedule.stages)

    @property
    def stages(self) -> tuple[StageResult, ...]:
        """With seconds and bytes; `host` is an index into `problem.hosts`."""
        return self.schedule.stages

    @property
    def period_s(self) -> float:
        """Between two results in steady state."""
        return self.schedule.period_s

    @property
    def latency_s(self) -> float:
        """Of one message alone, from end to end."""
        return self.schedule.latency_s

    @property
    def bottleneck(self) -> str:
        """What sets the period, such as `stage 1 on pi` or `link pi -> nano`."""
        return bottleneck_name(self.schedule, [host.name for host in self.problem.hosts])

    @property
    def certificate(self) -> Certificate:
        """`gap` 0: there is no better partition by these figures."""
        return self.schedule.certificate

    def __repr__(self) -> str:
        parts = ", ".join(f"{host} {first}-{last}" for host, (first, last) in zip(self.hosts, self.units, strict=True))
        return (
            f"<{parts}; period {format_time(self.period_s)} set by {self.bottleneck}, latency "
            f"{format_time(self.latency_s)}; {self.certificate.method}, gap {self.certificate.gap:.2%}>"
        )


def as_plan(given: Any) -> Plan:
    """A plan, or the one at a path. Raises UserError."""
    if isinstance(given, Plan):
        return given
    if isinstance(given, (str, os.PathLike)):
        return read_plan(os.fspath(given))
    raise UserError(f"plan is of type {type(given).__name__}: expected a plan, or the path of a plan.yaml")


def solve(
    given: Plan | str | os.PathLike[str] | Problem, *, scheduler: str = "exact", layers: Sequence[int] | None = None,
    drop: Sequence[str] = (), changes: Mapping[str, Any] = MappingProxyType({}), **more: Any,
) -> Partition:  # fmt: skip
    """The best partition there is, with its certificate; needs neither the model nor torch.

    Args:
        given: a plan or its path, whose costs and hosts are solved again, or a problem (see `problem`).
        scheduler: "exact", or another system's to compare with: "pipeedge", "pipeedge_shipped", "greedy_memory". What
            that chooses is costed as all partitions are, and its certificate says how far it is from the best.
        layers: for these, the units at which a layer begins, the first one 0; None: every unit is one.
        drop: hosts of the plan that are gone.
        changes: of the plan's figures, as `edgeplan simulate --set` names them: {"hosts.nano.bandwidth": "50Mbps"}.
        **more: changes, likewise.

    Raises:
        UserError: the plan cannot be read, a change names nothing, a figure is not possible, or no partition fits.
    """
    if isinstance(given, Problem):
        if drop or changes or more:
            raise UserError("drop and changes are for plans", fix="change the problem with dataclasses.replace")
        try:
            return _by(scheduler, given, solve_problem(given), layers)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"problem: {error}") from error
    plan = change(as_plan(given), [f"{key}={value}" for key, value in {**changes, **more}.items()])
    for name in drop:
        plan = without_host(plan, find_host(plan, name, "drop"))
    return _by(scheduler, *planned_again(plan), layers)


def _by(scheduler: str, stated: Problem, best: Schedule, layers: Sequence[int] | None) -> Partition:
    """`best`: what the exact scheduler makes of it."""
    if scheduler == "exact":
        return Partition(problem=stated, schedule=best)
    from edgecompile.planning.baselines import greedy_memory, pipeedge, pipeedge_shipped

    hosts, count = range(len(stated.hosts)), len(stated.weight_bytes)
    joined = {unit for first, last in stated.together for unit in range(first + 1, last + 1)}
    starts = [unit for unit in (range(count) if layers is None else layers) if unit not in joined]
    if not starts or starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= count:
        raise UserError(f"invalid value {layers!r:.60} for layers: expected units from 0 on, each once and in order")
    if scheduler == "pipeedge":
        assignments = pipeedge(stated, starts, hosts)
    elif scheduler == "pipeedge_shipped":
        assignments = pipeedge_shipped(stated, starts, hosts)
    elif scheduler == "greedy_memory":
        memory, names = [host.memory_bytes for host in stated.hosts], [host.name for host in stated.hosts]
        assignments = greedy_memory(starts, count, hosts, memory, names)
    else:
        known = choices(("exact", "pipeedge", "pipeedge_shipped", "greedy_memory"), scheduler)
        raise UserError(f"no scheduler {scheduler!r}", fix=f"there are {known}")
    found = evaluate(stated, assignments)
    bound_s = min(best.certificate.lower_bound_s, found.period_s)
    if stated.objective is Objective.LATENCY:
        bound_s = found.certificate.lower_bound_s
    certificate = replace(found.certificate, method=scheduler, lower_bound_s=bound_s, gap=1 - bound_s / found.period_s)
    return Partition(problem=stated, schedule=replace(found, certificate=certificate))


def problem(
    *,
    unit_s: Mapping[str, Sequence[float]],
    hosts: Mapping[str, str],
    cut_bytes: Sequence[int] | int = 0,
    bandwidth: Mapping[str, float | str] | float | str = "1Gbps",
    latency: float | str = 0.0,
    memory: Mapping[str, int | str] | int | str | None = None,
    weight_bytes: Sequence[int] | int = 0,
    activation_bytes: Sequence[int] | int = 0,
    runtime_memory: int | str = 0,
    data_host: str | None = None,
    objective: str = Objective.PERIOD.value,
    max_hosts: int | None = None,
) -> Problem:
    """A scheduling problem from plain figures, for `solve`.

    Args:
        unit_s: for each kind of device the seconds that each unit takes there, of one message.
        hosts: for each host its kind.
        cut_bytes: that cross before each unit and after the last one: one more than units; or one number for all.
        bandwidth: of each host's interface, bytes a second or text such as "100Mbps"; or one for all.
        latency: of every link, seconds or text such as "1ms".
        memory: of each host, bytes or text such as "4GB"; or one for all. None: no limit.
        weight_bytes, activation_bytes: of each unit, or one number for all.
        runtime_memory: of every host, that is taken before any unit.
        data_host: where inputs come from and results go; None: both cost nothing.
        objective: "period" or "latency".
        max_hosts: at most so many stages.

    Raises:
        UserError: figures that do not fit each other.
    """
    counts = {kind: len(times) for kind, times in unit_s.items()}
    if not counts or not all(counts.values()) or len(set(counts.values())) > 1:
        raise UserError(f"unit_s has units by kind {counts}: expected one kind or more, of equally many units")
    count, runtime_bytes = next(iter(counts.values())), parse_bytes(runtime_memory, "runtime_memory")
    if data_host is not None and data_host not in hosts:
        raise UserError(f"no host {data_host!r}", key="data_host", fix=f"the hosts are {choices(hosts, data_host)}")
    if objective not in (Objective.PERIOD.value, Objective.LATENCY.value):
        raise UserError(f"invalid value {objective!r} for objective: expected period or latency")
    return Problem(
        kinds=tuple(
            Kind(name=kind, unit_s=tuple(map(float, times)), runtime_bytes=runtime_bytes)
            for kind, times in unit_s.items()
        ),
        hosts=_hosts(hosts, list(unit_s), _NO_LIMIT if memory is None else memory, bandwidth),
        links=HostLinks(latency_s=parse_time(latency, "latency")),
        cut_bytes=_each(cut_bytes, count + 1, "cut_bytes"),
        weight_bytes=_each(weight_bytes, count, "weight_bytes"),
        activation_bytes=_each(activation_bytes, count, "activation_bytes"),
        entry_bytes=(0,) * (count + 1),
        exit_bytes=(0,) * (count + 1),
        data_host=None if data_host is None else list(hosts).index(data_host),
        objective=Objective(objective),
        max_hosts=max_hosts,
    )


def _hosts(hosts: Mapping[str, str], kinds: Sequence[str], memory: Any, bandwidth: Any) -> tuple[SchedHost, ...]:
    found = []
    for name, kind in hosts.items():
        if kind not in kinds:
            raise UserError(f"no kind {kind!r}", key=f"hosts.{name}", fix=f"unit_s has {choices(kinds, kind)}")
        room, rate = _of_host(memory, name, hosts, "memory"), _of_host(bandwidth, name, hosts, "bandwidth")
        found.append(
            SchedHost(
                name=name, kind=kinds.index(kind), memory_bytes=parse_bytes(room, f"memory.{name}"),
                bandwidth_bytes_per_s=parse_rate(rate, f"bandwidth.{name}"),
            )
        )  # fmt: skip
    return tuple(found)


def _each(given: Sequence[int] | int, count: int, key: str) -> tuple[int, ...]:
    values = (given,) * count if isinstance(given, int) else tuple(int(value) for value in given)
    if len(values) != count:
        raise UserError(f"{key} has {len(values)} entries: expected {count}")
    return values


def _of_host(given: Any, name: str, hosts: Mapping[str, str], key: str) -> Any:
    """A figure of one host, where all may have the same."""
    if not isinstance(given, Mapping):
        return given
    if name not in given:
        raise UserError(f"nothing for the host {name!r}", key=key, fix=f"give one of each: {', '.join(hosts)}")
    return given[name]
