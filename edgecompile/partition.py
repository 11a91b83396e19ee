"""chain x profile x cluster -> the scheduling problem, and the plan's assignment of units to hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgecompile.blocks import cut_positions, cuts_of_ranges, pipeedge_cuts, unit_range
from edgecompile.domain import Cluster
from edgecompile.errors import UserError, choices
from edgecompile.machines import limits_entry, network_entry
from edgecompile.profile import Profile
from edgecompile.quantities import parse_time
from edgecompile.resolve import links_of
from edgecompile.schedule import (
    Assignment,
    Kind,
    Objective,
    Pin,
    Problem,
    SchedHost,
    Schedule,
    SharedWeight,
    evaluate,
    solve,
)
from edgecompile.schema import Conf, ConstraintsConf, ScheduleMethod
from edgecompile.units import Chain, Weight
from edgecompile.wire import FORMATS, WireFormat, cut_formats, decode_s, encode_s, wire_bytes

__all__ = ["build_problem", "partition"]


# What the scheduler calls the limits, and what the user wrote.
_KEYS = {
    "period_limit_s": "the period that schedule.constraints.min_throughput asks for",
    "latency_limit_s": "schedule.constraints.max_latency",
    "max_hosts": "schedule.constraints.max_hosts",
    "state_budget": "schedule.state_budget",
}


def partition(chain: Chain, profile: Profile, cluster: Cluster, conf: Conf) -> Schedule:
    """Which host runs which units.

    Raises:
        UserError: as `_partition` does, in the config's own words.
    """
    try:
        return _partition(chain, profile, cluster, conf)
    except ValueError as error:  # the scheduler names its own fields, all of which come from the config
        text = str(error)
        for field, key in _KEYS.items():
            text = text.replace(field, key)
        raise UserError(text) from error


def _partition(chain: Chain, profile: Profile, cluster: Cluster, conf: Conf) -> Schedule:
    """Chooses or takes the stages, and costs them.

    Raises:
        Infeasible: no assignment fits the hosts' memory or the constraints.
        UserError: a manual partition that does not cover the model, or names that nothing goes by.
    """
    method = conf.schedule.method
    problem = build_problem(chain, profile, cluster, conf)
    if method is ScheduleMethod.exact:
        return solve(problem)
    if method is ScheduleMethod.single:
        starts = [0]
    elif method is ScheduleMethod.even:
        starts = _even_starts(problem, _stage_hosts(conf, cluster))
    else:
        starts = [0, *_manual_cuts(chain, conf)]
    hosts = _stage_hosts(conf, cluster)
    if len(starts) > len(hosts):
        raise UserError(
            f"schedule: {len(starts)} stages need as many hosts, but {len(hosts)} are there: "
            f"add hosts (devices=local hosts.count={len(starts)}) or drop stages"
        )
    ends = [*starts[1:], len(chain.units)]
    for start in starts[1:]:
        if not chain.boundaries[start].cuttable:
            raise UserError(f"schedule: no cut is possible before unit {start} ({chain.units[start].op})")
    problem = build_problem(chain, profile, cluster, conf, starts)
    triples = zip(starts, ends, hosts, strict=False)
    assignments = tuple(Assignment(first=start, last=end - 1, host=host) for start, end, host in triples)
    return _compared(evaluate(problem, assignments), problem, method.value)


def _compared(schedule: Schedule, problem: Problem, method: str) -> Schedule:
    """A given schedule with the best period that these hosts allow as its lower bound."""
    free = replace(problem, objective=Objective.PERIOD, latency_limit_s=None, period_limit_s=None, pins=(),
                   excluded_hosts=(), host_order=None, max_hosts=None)  # fmt: skip
    bound_s = min(solve(free).certificate.lower_bound_s, schedule.period_s)
    certificate = replace(
        schedule.certificate, method=method, lower_bound_s=bound_s, gap=1 - bound_s / schedule.period_s
    )
    return replace(schedule, certificate=certificate)


def build_problem(
    chain: Chain, profile: Profile, cluster: Cluster, conf: Conf, starts: Sequence[int] | None = None
) -> Problem:
    """The scheduler's view: seconds, bytes and limits, and nothing of graphs.

    Args:
        starts: where stages begin, if that is given; each cut then has its own wire format.

    Raises:
        UserError: a constraint names an unknown unit, module, host or kind.
    """
    wires = _wires(chain, conf, starts)
    sizes = tuple(wire_bytes(boundary, wire) for boundary, wire in zip(chain.boundaries, wires, strict=True))
    pairs = list(zip(chain.boundaries, wires, strict=True))
    own, shared = _weights(chain)
    constraints = conf.schedule.constraints
    host_names = [host.name for host in cluster.hosts]
    limit = constraints.max_latency
    throughput = constraints.min_throughput
    if throughput is not None and throughput <= 0:
        raise UserError(f"schedule.constraints.min_throughput: {throughput} does not do: it must be over 0")
    return Problem(
        kinds=tuple(
            Kind(
                name=device.name,
                unit_s=profile.unit_s[device.name],
                encode_s=tuple(encode_s(boundary, wire, device) for boundary, wire in pairs),
                decode_s=tuple(decode_s(boundary, wire, device) for boundary, wire in pairs),
                runtime_bytes=device.runtime_bytes,
            )
            for device in cluster.devices
        ),
        hosts=_hosts(cluster),
        links=links_of(network_entry(cluster), [(host.name, limits_entry(host)) for host in cluster.hosts]),
        cut_bytes=sizes,
        weight_bytes=own,
        shared_weights=shared,
        activation_bytes=tuple(unit.activation_bytes for unit in chain.units),
        entry_bytes=tuple(conf.runtime.num_buffers_in * size for size in sizes),
        exit_bytes=tuple(conf.runtime.num_buffers_out * size for size in sizes),
        data_host=0,
        objective=Objective(conf.schedule.objective),
        latency_limit_s=None if limit is None else parse_time(limit, "schedule.constraints.max_latency"),
        period_limit_s=None if throughput is None else conf.microbatch / throughput,
        pins=_pins(chain, cluster, constraints),
        together=(*_together(chain, constraints), *_uncuttable(chain)),
        excluded_hosts=tuple(_host(name, host_names, "exclude") for name in constraints.exclude),
        host_order=None
        if constraints.host_order is None
        else tuple(_host(name, host_names, "host_order") for name in constraints.host_order),
        max_hosts=constraints.max_hosts,
        state_budget=conf.schedule.state_budget,
    )


def _hosts(cluster: Cluster) -> tuple[SchedHost, ...]:
    kinds = [device.name for device in cluster.devices]
    return tuple(
        SchedHost(
            name=host.name,
            kind=kinds.index(host.device),
            memory_bytes=host.memory_bytes,
            bandwidth_bytes_per_s=host.bandwidth_bytes_per_s,
        )
        for host in cluster.hosts
    )


def _wires(chain: Chain, conf: Conf, starts: Sequence[int] | None) -> list[WireFormat]:
    """The format of each boundary. Inputs and results travel as they are."""
    raw = FORMATS["fp32"]
    inner = len(chain.boundaries) - 2
    if starts is None:
        return [raw, *cut_formats(conf, None)[:1] * inner, raw]
    wires = [raw, *[raw] * inner, raw]
    for start, wire in zip(starts[1:], cut_formats(conf, len(starts) - 1), strict=True):
        wires[start] = wire
    return wires


def _weights(chain: Chain) -> tuple[tuple[int, ...], tuple[SharedWeight, ...]]:
    """Bytes of each unit's own weights, and the weights that several units read."""
    users: dict[int, list[int]] = {}
    sizes: dict[int, Weight] = {}
    for unit in chain.units:
        for weight in unit.weights:
            users.setdefault(weight.key, []).append(unit.index)
            if weight.key not in sizes or sizes[weight.key].num_bytes < weight.num_bytes:
                sizes[weight.key] = weight
    own = [0] * len(chain.units)
    shared = []
    for key, units in users.items():
        if len(units) == 1:
            own[units[0]] += sizes[key].num_bytes
        else:
            shared.append(SharedWeight(units=tuple(units), num_bytes=sizes[key].num_bytes))
    return tuple(own), tuple(shared)


def _pins(chain: Chain, cluster: Cluster, constraints: ConstraintsConf) -> tuple[Pin, ...]:
    pins = []
    if constraints.pin is not None and not isinstance(constraints.pin, dict):
        raise UserError(
            f"schedule.constraints.pin: {constraints.pin!r} does not do: it must map modules or units to hosts"
        )
    for name, where in (constraints.pin or {}).items():
        key = f"schedule.constraints.pin.{name}"
        allowed = where if isinstance(where, list) else [where]
        hosts: set[int] = set()
        for place in allowed:
            found = [index for index, host in enumerate(cluster.hosts) if place in (host.name, host.device)]
            if not found:
                known = [host.name for host in cluster.hosts] + [device.name for device in cluster.devices]
                raise UserError(f"{key}: no host or device kind {place!r}: there are {choices(known)}")
            hosts.update(found)
        pins.append(Pin(units=unit_range(name, chain, key), hosts=tuple(sorted(hosts))))
    return tuple(pins)


def _together(chain: Chain, constraints: ConstraintsConf) -> list[tuple[int, int]]:
    spans = []
    for index, names in enumerate(constraints.together):
        key = f"schedule.constraints.together.{index}"
        if not isinstance(names, list) or len(names) < 2:
            raise UserError(f"{key}: {names!r} does not do: it must be a list of two or more modules or units")
        ranges = [unit_range(name, chain, key) for name in names]
        spans.append((min(first for first, _ in ranges), max(last for _, last in ranges)))
    return spans


def _uncuttable(chain: Chain) -> list[tuple[int, int]]:
    return [(cut.index - 1, cut.index) for cut in chain.boundaries if not cut.cuttable]


def _host(name: str, names: Sequence[str], key: str) -> int:
    if name not in names:
        raise UserError(f"schedule.constraints.{key}: no host {name!r}: the hosts are {choices(names)}")
    return names.index(name)


def _stage_hosts(conf: Conf, cluster: Cluster) -> list[int]:
    names = [host.name for host in cluster.hosts]
    for name in conf.schedule.hosts:
        if name not in names:
            raise UserError(f"schedule.hosts: no host {name!r}: the hosts are {choices(names)}")
        if conf.schedule.hosts.count(name) > 1:
            raise UserError(f"schedule.hosts: {name!r} is named twice: a host runs one stage")
    return [names.index(name) for name in conf.schedule.hosts] or list(range(len(names)))


def _manual_cuts(chain: Chain, conf: Conf) -> list[int]:
    given = [key for key in ("cuts", "units", "pipeedge_partition") if getattr(conf.schedule, key)]
    if len(given) != 1:
        said = " and ".join(given) or "none of them"
        raise UserError(
            "schedule=manual takes exactly one of schedule.cuts=[vit.layers.6], schedule.units=[0,99,100,301] "
            f"and schedule.pipeedge_partition=[1,24,25,48]: {said} was given"
        )
    if given == ["cuts"]:
        return cut_positions(conf.schedule.cuts, chain)
    if given == ["units"]:
        return cuts_of_ranges(conf.schedule.units, len(chain.units) - 1, "schedule.units")
    return pipeedge_cuts(conf.schedule.pipeedge_partition, chain)


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
