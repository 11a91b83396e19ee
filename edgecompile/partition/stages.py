"""States the scheduling problem from chain, profile and cluster, and turns the solution into stages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from edgecompile.config.domain import Cluster
from edgecompile.config.schema import Conf, ConstraintsConf, ScheduleMethod
from edgecompile.contract.errors import UserError, choices
from edgecompile.contract.quantities import parse_time
from edgecompile.frontend.chain.blocks import cut_positions, cuts_of_ranges, pipeedge_cuts, unit_range
from edgecompile.frontend.chain.units import Chain, Weight
from edgecompile.partition.machines import limits_entry, network_entry
from edgecompile.planning.from_plan import links_of
from edgecompile.planning.memory import most_ends_bytes
from edgecompile.planning.problem import (
    Assignment,
    Infeasible,
    Kind,
    Objective,
    Pin,
    Problem,
    SchedHost,
    Schedule,
    SharedWeight,
)
from edgecompile.planning.solver import evaluate, solve
from edgecompile.profile.analytic import Profile
from edgecompile.wire.formats import FORMATS, WireFormat, cut_formats, wire_bytes

__all__ = ["build_problem", "partition"]


# What the scheduler calls its fields, and what the user wrote. `together` is a plain word too: only as a field.
_KEYS = {
    "period_limit_s": "the period that schedule.constraints.min_throughput asks for",
    "latency_limit_s": "schedule.constraints.max_latency",
    "max_hosts": "schedule.constraints.max_hosts",
    "excluded_hosts": "schedule.constraints.exclude",
    "host_order": "schedule.constraints.host_order",
    "pins": "schedule.constraints.pin",
    "together": "schedule.constraints.together",
    "state_budget": "schedule.state_budget",
}
_FIELD = re.compile(rf"\b(?:{'|'.join(key for key in _KEYS if key != 'together')}|together(?= =|\[))")


def partition(chain: Chain, profile: Profile, cluster: Cluster, conf: Conf) -> Schedule:
    """Which host runs which units: chooses or takes the stages, and costs them.

    Raises:
        Infeasible: no assignment fits the hosts' memory or the constraints.
        UserError: a manual partition that does not cover the model, names that nothing goes by, or a figure that the
            scheduler does not take.
    """
    method = conf.schedule.method
    problem = build_problem(chain, profile, cluster, conf)
    if method is ScheduleMethod.exact:
        with _users_words():
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
            f"schedule: {len(starts)} stages need as many hosts, but there are {len(hosts)}: "
            f"add hosts (devices=local hosts.count={len(starts)}) or drop stages"
        )
    ends = [*starts[1:], len(chain.units)]
    for start in starts[1:]:
        if not chain.boundaries[start].cuttable:
            raise UserError(f"schedule: no cut is possible before unit {start} ({chain.units[start].op})")
    triples = zip(starts, ends, hosts, strict=False)
    assignments = tuple(Assignment(first=start, last=end - 1, host=host) for start, end, host in triples)
    with_formats = build_problem(chain, profile, cluster, conf, starts)
    with _users_words():
        return _compared(evaluate(with_formats, assignments), _unbound(problem, chain), conf)


@contextmanager
def _users_words() -> Iterator[None]:
    """Around the scheduler: what it refuses comes from the config, so it is the user's error, in the user's words."""
    try:
        yield
    except ValueError as error:
        text = _FIELD.sub(lambda match: _KEYS[match[0]], str(error))
        kind = Infeasible if isinstance(error, Infeasible) else UserError
        raise kind(text) from error


def _compared(given: Schedule, unbound: Problem, conf: Conf) -> Schedule:
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
    attained = best.gap == 0 and len(set(conf.wire.per_cut)) <= 1
    method = conf.schedule.method.value if attained else certificate.method
    certificate = replace(certificate, method=method, lower_bound_s=bound_s, gap=1 - bound_s / given.period_s)
    return replace(given, certificate=certificate)


def _unbound(problem: Problem, chain: Chain) -> Problem:
    """Without the user's constraints, which given stages need not keep."""
    return replace(problem, objective=Objective.PERIOD, latency_limit_s=None, period_limit_s=None, pins=(),
                   together=tuple(_uncuttable(chain)), excluded_hosts=(), host_order=None, max_hosts=None)  # fmt: skip


def build_problem(
    chain: Chain, profile: Profile, cluster: Cluster, conf: Conf, starts: Sequence[int] | None = None
) -> Problem:
    """The scheduler's view: seconds, bytes and limits, and nothing of graphs.

    Args:
        starts: where stages begin, if that is given; each cut then has its own wire format. Without them every
            boundary has the format of all cuts. Where wire.per_cut names several, it has the least bytes and the
            least seconds of any of them, each by itself: no choice of cuts and of formats among these costs less.

    Raises:
        UserError: a constraint names an unknown unit, module, host or kind.
    """
    pairs = list(zip(chain.boundaries, _wires(chain, conf, starts), strict=True))
    sizes = tuple(min(wire_bytes(boundary, wire) for wire in wires) for boundary, wires in pairs)
    own, shared = _weights(chain)
    constraints = conf.schedule.constraints
    host_names = [host.name for host in cluster.hosts]
    limit = constraints.max_latency
    throughput = constraints.min_throughput
    if throughput is not None and throughput <= 0:
        raise UserError(
            f"invalid value {throughput} for schedule.constraints.min_throughput: expected a number greater than 0"
        )
    return Problem(
        kinds=tuple(
            Kind(
                name=device.name,
                unit_s=profile.unit_s[device.name],
                encode_s=tuple(min(costs.encode_s(boundary, wire) for wire in wires) for boundary, wires in pairs),
                decode_s=tuple(min(costs.decode_s(boundary, wire) for wire in wires) for boundary, wires in pairs),
                runtime_bytes=profile.runtime_bytes[device.name],
            )
            for device in cluster.devices
            for costs in (profile.wires[device.name],)
        ),
        hosts=_hosts(cluster, most_ends_bytes(conf.runtime, sizes[0], sizes[-1], len(cluster.hosts))),
        links=links_of(network_entry(cluster), [(host.name, limits_entry(host)) for host in cluster.hosts]),
        cut_bytes=sizes,
        weight_bytes=own,
        shared_weights=shared,
        activation_bytes=profile.activation_bytes,
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


def _hosts(cluster: Cluster, ends_bytes: int) -> tuple[SchedHost, ...]:
    """The hosts; the first one, the data host, has the pipeline's two ends beside the stage that it may run."""
    kinds = [device.name for device in cluster.devices]
    return tuple(
        SchedHost(
            name=host.name,
            kind=kinds.index(host.device),
            memory_bytes=host.memory_bytes if index else max(0, host.memory_bytes - ends_bytes),
            bandwidth_bytes_per_s=host.bandwidth_bytes_per_s,
        )
        for index, host in enumerate(cluster.hosts)
    )


def _wires(chain: Chain, conf: Conf, starts: Sequence[int] | None) -> list[list[WireFormat]]:
    """The formats that may be at each boundary. Inputs and results travel as they are."""
    raw = [FORMATS["fp32"]]
    inner = len(chain.boundaries) - 2
    if starts is None:
        return [raw, *[cut_formats(conf, None)] * inner, raw]
    wires = [raw, *[raw] * inner, raw]
    for start, wire in zip(starts[1:], cut_formats(conf, len(starts) - 1), strict=True):
        wires[start] = [wire]
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
            f"invalid value {constraints.pin!r} for schedule.constraints.pin: expected modules or units mapped to hosts"
        )
    for name, where in (constraints.pin or {}).items():
        key = f"schedule.constraints.pin.{name}"
        allowed = where if isinstance(where, list) else [where]
        hosts: set[int] = set()
        for place in allowed:
            found = [index for index, host in enumerate(cluster.hosts) if place in (host.name, host.device)]
            if not found:
                known = [host.name for host in cluster.hosts] + [device.name for device in cluster.devices]
                raise UserError(f"{key}: no host or device kind {place!r}: there are {choices(known, place)}")
            hosts.update(found)
        pins.append(Pin(units=unit_range(name, chain, key), hosts=tuple(sorted(hosts))))
    return tuple(pins)


def _together(chain: Chain, constraints: ConstraintsConf) -> list[tuple[int, int]]:
    spans = []
    for index, names in enumerate(constraints.together):
        key = f"schedule.constraints.together.{index}"
        if not isinstance(names, list) or len(names) < 2:
            raise UserError(f"invalid value {names!r} for {key}: expected a list of two or more modules or units")
        ranges = [unit_range(name, chain, key) for name in names]
        spans.append((min(first for first, _ in ranges), max(last for _, last in ranges)))
    return spans


def _uncuttable(chain: Chain) -> list[tuple[int, int]]:
    return [(cut.index - 1, cut.index) for cut in chain.boundaries if not cut.cuttable]


def _host(name: str, names: Sequence[str], key: str) -> int:
    if name not in names:
        raise UserError(f"schedule.constraints.{key}: no host {name!r}: the hosts are {choices(names, name)}")
    return names.index(name)


def _stage_hosts(conf: Conf, cluster: Cluster) -> list[int]:
    names = [host.name for host in cluster.hosts]
    for name in conf.schedule.hosts:
        if name not in names:
            raise UserError(f"schedule.hosts: no host {name!r}: the hosts are {choices(names, name)}")
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
