"""The schedule option as a frozen object: who chooses the stages, and what every plan must keep to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecompile.config.cluster_spec import Cluster
from edgecompile.config.methods import ScheduleMethod, TextObjective
from edgecompile.config.schema import ConstraintsConf, ScheduleConf
from edgecompile.config.value_checks import at_least, between, member, over_zero, seconds
from edgecompile.contract.closed_sets import Objective
from edgecompile.contract.errors import UserError, choices, invalid_value
from edgecompile.contract.validation import MOST_HOSTS, MOST_S

__all__ = ["ConstraintsRequest", "PinRequest", "ScheduleRequest", "check_schedule_values", "schedule_of"]

_GIVEN = ("cuts", "units", "pipeedge_partition")


@dataclass(frozen=True, kw_only=True)
class PinRequest:
    units: object
    """A unit's number, a range `3-7` or a module's name."""
    hosts: tuple[str, ...]
    """One of them must run these units; in the cluster's order."""


@dataclass(frozen=True, kw_only=True)
class ConstraintsRequest:
    pins: tuple[PinRequest, ...]
    together: tuple[tuple[object, ...], ...]
    """Modules or units that must share a stage."""
    exclude: tuple[str, ...]
    host_order: tuple[str, ...] | None
    max_hosts: int | None
    min_throughput: float | None
    """Items a second."""
    latency_limit_s: float | None


@dataclass(frozen=True, kw_only=True)
class ScheduleRequest:
    method: ScheduleMethod
    objective: Objective
    cuts: tuple[object, ...]
    """manual, one of these three: where stages begin, first and last units, PipeEdge's numbers."""
    units: tuple[int, ...]
    pipeedge_partition: tuple[int, ...]
    hosts: tuple[str, ...]
    """manual, even and single: which host runs each stage, in order; other systems' baselines: which may run one."""
    state_budget: int
    constraints: ConstraintsRequest


_TEXT = {
    TextObjective.THROUGHPUT.value: Objective.PERIOD,
    TextObjective.TOKEN_LATENCY.value: Objective.LATENCY,
    TextObjective.FIRST_TOKEN.value: Objective.LATENCY,
}
"""Of the messages that text_mix makes for them."""


def check_schedule_values(conf: ScheduleConf) -> None:
    """What can be wrong whatever the model and the cluster are. Raises UserError."""
    if conf.objective not in _TEXT:
        member(Objective, conf.objective, "schedule.objective")
    if not 1 <= conf.state_budget < 1 << 63:
        raise invalid_value(conf.state_budget, "schedule.state_budget", "1 or more, below 2^63")
    limits = conf.constraints
    if limits.max_hosts is not None:
        between(limits.max_hosts, 1, MOST_HOSTS, "schedule.constraints.max_hosts")
    if limits.min_throughput is not None:
        over_zero(limits.min_throughput, "schedule.constraints.min_throughput")
    if limits.max_latency is not None:
        seconds(limits.max_latency, "schedule.constraints.max_latency", positive=True)


def schedule_of(conf: ScheduleConf, cluster: Cluster, microbatch: int) -> ScheduleRequest:
    """
    Args:
        microbatch: throughputs are in items.

    Raises:
        UserError: a value is not allowed, or a name is not a host's.
    """
    check_schedule_values(conf)
    _check_given(conf)
    names = [host.name for host in cluster.hosts]
    return ScheduleRequest(
        method=conf.method,
        objective=_TEXT.get(conf.objective) or Objective(conf.objective),
        cuts=tuple(conf.cuts),
        units=tuple(conf.units),
        pipeedge_partition=tuple(conf.pipeedge_partition),
        hosts=tuple(names) if conf.method is ScheduleMethod.exact else _stage_hosts(conf.hosts, names),
        state_budget=conf.state_budget,
        constraints=_constraints(conf, cluster, names, microbatch),
    )


def _check_given(conf: ScheduleConf) -> None:
    """Refuses what the method would not use: a partition that the user wrote is never dropped."""
    given = [key for key in _GIVEN if getattr(conf, key)]
    manual = conf.method is ScheduleMethod.manual
    if given and not manual:
        raise UserError(
            f"schedule={conf.method.value} makes the stages itself", key=f"schedule.{given[0]}",
            fix="add schedule=manual, or leave it out",
        )  # fmt: skip
    if conf.hosts and conf.method is ScheduleMethod.exact:
        raise UserError(
            "schedule=exact chooses the hosts itself", key="schedule.hosts",
            fix="use schedule.constraints.exclude, host_order or pin, or another schedule",
        )  # fmt: skip
    if manual and len(given) != 1:
        said = " and ".join(given) or "none of them"
        raise UserError(
            "schedule=manual takes exactly one of schedule.cuts=[vit.layers.6], schedule.units=[0,99,100,301] "
            f"and schedule.pipeedge_partition=[1,24,25,48]: {said} was given"
        )


def _stage_hosts(given: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    for name in given:
        _known(name, names, "schedule.hosts")
        if list(given).count(name) > 1:
            raise UserError(f"schedule.hosts: {name!r} is named twice: a host runs one stage")
    return tuple(given or names)


def _constraints(conf: ScheduleConf, cluster: Cluster, names: Sequence[str], microbatch: int) -> ConstraintsRequest:
    given, key = conf.constraints, "schedule.constraints"
    order = given.host_order
    if order is not None:
        _check_order(order, names)
    latency_limit_s = None
    if given.max_latency is not None:
        latency_limit_s = seconds(given.max_latency, f"{key}.max_latency", positive=True)
    elif conf.objective == Objective.PERIOD_UNDER_LATENCY.value:
        raise UserError(f"{key}.max_latency is missing: the objective period_under_latency needs it")
    if given.min_throughput is not None:
        over_zero(given.min_throughput, f"{key}.min_throughput")
        if microbatch / given.min_throughput > MOST_S:
            raise invalid_value(given.min_throughput, f"{key}.min_throughput", f"{microbatch / MOST_S:.3g} or more")
    return ConstraintsRequest(
        pins=_pins(given, cluster),
        together=_together(given),
        exclude=tuple(_known(name, names, f"{key}.exclude") for name in given.exclude),
        host_order=None if order is None else tuple(order),
        max_hosts=None if given.max_hosts is None else at_least(given.max_hosts, 1, f"{key}.max_hosts"),
        min_throughput=given.min_throughput,
        latency_limit_s=latency_limit_s,
    )


def _known(name: str, names: Sequence[str], key: str) -> str:
    if name not in names:
        raise UserError(f"no host {name!r}", key=key, fix=f"the hosts are {choices(names, name)}")
    return name


def _check_order(order: Sequence[str], names: Sequence[str]) -> None:
    key = "schedule.constraints.host_order"
    for name in order:
        _known(name, names, key)
    if not order or len(set(order)) < len(order):
        raise invalid_value(list(order), key, "one host or more, each once, or null")


def _pins(constraints: ConstraintsConf, cluster: Cluster) -> tuple[PinRequest, ...]:
    if constraints.pin is not None and not isinstance(constraints.pin, dict):
        raise invalid_value(
            constraints.pin, "schedule.constraints.pin", "a mapping from modules or units to hosts or device kinds"
        )
    return tuple(_pin(name, where, cluster) for name, where in (constraints.pin or {}).items())


def _pin(units: object, where: object, cluster: Cluster) -> PinRequest:
    key = f"schedule.constraints.pin.{units}"
    found: set[str] = set()
    for place in where if isinstance(where, list) else [where]:
        hosts = {host.name for host in cluster.hosts if place in (host.name, host.device)}
        if not hosts:
            known = [host.name for host in cluster.hosts] + [device.name for device in cluster.devices]
            raise UserError(f"no host or device kind {place!r}", key=key, fix=f"there are {choices(known, place)}")
        found |= hosts
    if not found:
        raise invalid_value(where, key, "a host or a device kind, or a list of them")
    return PinRequest(units=units, hosts=tuple(host.name for host in cluster.hosts if host.name in found))


def _together(constraints: ConstraintsConf) -> tuple[tuple[object, ...], ...]:
    for index, names in enumerate(constraints.together):
        if not isinstance(names, list) or len(names) < 2:
            raise invalid_value(
                names, f"schedule.constraints.together.{index}", "a list of two or more modules or units"
            )
    return tuple(tuple(names) for names in constraints.together)
