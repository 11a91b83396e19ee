"""Applies what-if changes to a plan: other figures, one host less or one more; stages stay as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from edgecompile.contract.cluster import Device, Limits, Network, Pair, SpareHost
from edgecompile.contract.errors import UserError, choices, nearest
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import parse_bytes, parse_rate, parse_time

__all__ = ["change", "find_host", "with_host", "with_limits", "with_pair", "with_speed", "without_host"]

_KEYS = (
    "hosts.HOST.bandwidth, hosts.HOST.memory, hosts.HOST.speed, links.A->B.bandwidth, links.A->B.latency, "
    "network.bandwidth, network.latency, runtime.num_buffers_in, runtime.num_buffers_out"
)


def change(plan: Plan, settings: Sequence[str]) -> Plan:
    """The plan with `KEY=VALUE` settings in their order.

    Raises:
        UserError: an unknown key or host, or an invalid value; names it.
    """
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected KEY=VALUE; the keys are {_KEYS}")
        plan = _set(plan, key.strip(), value.strip())
    return plan


def _set(plan: Plan, key: str, value: str) -> Plan:
    group, _, rest = key.partition(".")
    target, _, field = rest.rpartition(".")
    if group == "hosts" and target:
        return _set_host(plan, find_host(plan, target, key), field, value, key)
    if group == "links" and target:
        return _set_link(plan, target, field, value, key)
    if group == "network" and rest in ("bandwidth", "latency"):
        return _set_network(plan, rest, value, key)
    if group == "runtime" and rest in ("num_buffers_in", "num_buffers_out"):
        if not value.isdigit() or not 1 <= int(value) <= 1024:
            raise UserError(f"invalid value {value!r} for {key}: expected 1 to 1024")
        count: Any = {rest: int(value)}
        return replace(plan, runtime=replace(plan.runtime, **count))
    raise UserError(f"--set {key}: no such key{_meant(group, rest)}: the keys are {_KEYS}")


def _meant(group: str, rest: str) -> str:
    """What key it may have been."""
    near = nearest(group, ["hosts", "links", "network", "runtime"])
    if near:
        return f" (did you mean {near[0]}.{rest}?)"
    keys = {"network": ["bandwidth", "latency"], "runtime": ["num_buffers_in", "num_buffers_out"]}.get(group, [])
    near = nearest(rest, keys)
    return f" (did you mean {group}.{near[0]}?)" if near else ""


def find_host(plan: Plan, name: str, key: str) -> str:
    """A host's name, from its name or the number of its rank."""
    if name in plan.cluster:
        return name
    if name.isdigit() and int(name) < len(plan.hosts):
        return plan.hosts[int(name)].name
    raise UserError(f"{key}: no host {name!r}: the hosts are {choices(plan.cluster, name)}, or a rank's number")


def _set_host(plan: Plan, name: str, field: str, value: str, key: str) -> Plan:
    if field == "bandwidth":
        given = {(pair.source, pair.destination) for pair in plan.network.pairs}
        others = [other for other in plan.cluster if other != name]
        if others and all((name, other) in given and (other, name) in given for other in others):
            raise UserError(f"{key}: each of {name}'s links has its own figures: set links.{name}->HOST.bandwidth")
        return with_limits(plan, name, bandwidth_bytes_per_s=parse_rate(value, key))
    if field == "memory":
        return with_limits(plan, name, memory_bytes=parse_bytes(value, key))
    if field == "speed":
        try:
            factor = float(value)
        except ValueError:
            factor = math.nan
        if not 0 < factor < math.inf:
            raise UserError(f"invalid value {value!r} for {key}: expected a factor greater than 0, such as 1.5")
        return with_speed(plan, name, factor)
    raise UserError(f"--set {key}: no such key: a host has {choices(('bandwidth', 'memory', 'speed'), field)}")


def _set_link(plan: Plan, ends: str, field: str, value: str, key: str) -> Plan:
    source, arrow, destination = (part.strip() for part in ends.partition("->"))
    if not arrow:
        raise UserError(f"{key}: expected links.SOURCE->DESTINATION.bandwidth or .latency")
    source, destination = find_host(plan, source, key), find_host(plan, destination, key)
    if source == destination:
        raise UserError(f"{key}: a host has no link to itself")
    if plan.network.model == "shared":
        raise UserError(f"{key}: these hosts share one channel: set network.bandwidth or hosts.{source}.bandwidth")
    if field == "bandwidth":
        return with_pair(plan, source, destination, bandwidth_bytes_per_s=parse_rate(value, key))
    if field == "latency":
        return with_pair(plan, source, destination, latency_s=parse_time(value, key))
    raise UserError(f"--set {key}: no such key: a link has {choices(('bandwidth', 'latency'), field)}")


def _set_network(plan: Plan, field: str, value: str, key: str) -> Plan:
    if field == "latency":
        return replace(plan, network=replace(plan.network, latency_s=parse_time(value, key)))
    if plan.network.model != "shared":
        raise UserError(f"{key}: these hosts share no channel: set hosts.HOST.bandwidth")
    return replace(plan, network=replace(plan.network, bandwidth_bytes_per_s=parse_rate(value, key)))


def with_limits(plan: Plan, name: str, **figures: Any) -> Plan:
    """One host with other `Limits`."""
    return _with_host_fields(plan, name, lambda limits: {"limits": replace(limits, **figures)})


def with_speed(plan: Plan, name: str, factor: float) -> Plan:
    """One host that does everything in 1/factor of the time: a device kind of its own."""
    host = next(host for host in plan.all_hosts if host.name == name)
    device = next(device for device in plan.devices if device.name == host.device)
    kind = f"{name}: {device.name} x {factor:g}"
    faster = replace(
        device,
        name=kind,
        peak_flops_per_s=device.peak_flops_per_s * factor,
        memory_bytes_per_s=device.memory_bytes_per_s * factor,
        launch_s=device.launch_s / factor,
    )

    def scaled(costs: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        return costs | {kind: {wire: seconds / factor for wire, seconds in costs[device.name].items()}}

    plan = replace(
        plan,
        devices=(*plan.devices, faster),
        units=tuple(
            replace(unit, time_s=unit.time_s | {kind: unit.time_s[device.name] / factor}) for unit in plan.units
        ),
        boundaries=tuple(
            replace(entry, encode_s=scaled(entry.encode_s), decode_s=scaled(entry.decode_s))
            for entry in plan.boundaries
        ),
    )
    return _with_host_fields(plan, name, lambda _: {"device": kind})


def _with_host_fields(plan: Plan, name: str, fields: Callable[[Limits], dict[str, Any]]) -> Plan:
    return replace(
        plan,
        hosts=tuple(replace(host, **fields(host.limits)) if host.name == name else host for host in plan.hosts),
        unused_hosts=tuple(
            replace(host, **fields(host.limits)) if host.name == name else host for host in plan.unused_hosts
        ),
    )


def with_pair(plan: Plan, source: str, destination: str, **figures: Any) -> Plan:
    """One link with figures of its own, the others as they were."""
    limits = {host.name: host.limits for host in plan.all_hosts}
    now = plan.network.figures((source, limits[source]), (destination, limits[destination]))
    if now is None:
        raise UserError(f"the rate from {source} to {destination} is unknown: compile the plan again")
    pair = Pair(source=source, destination=destination, bandwidth_bytes_per_s=now[0], latency_s=now[1])
    others = tuple(item for item in plan.network.pairs if (item.source, item.destination) != (source, destination))
    pairs = (*others, replace(pair, **figures))
    return replace(plan, network=Network(model="pairwise", latency_s=plan.network.latency_s, pairs=pairs))


def with_host(plan: Plan, device: Device) -> Plan:
    """One more host of a kind, with that kind's own memory and network."""
    name = f"another {device.name}"
    limits = Limits(memory_bytes=device.memory_bytes, bandwidth_bytes_per_s=device.network_bytes_per_s)
    host = SpareHost(name=name, address="", port=1, device=device.name, threads=device.threads, limits=limits)
    return replace(plan, unused_hosts=(*plan.unused_hosts, host), cluster=(*plan.cluster, name))


def without_host(plan: Plan, name: str) -> Plan:
    """The cluster without a host; without the data host, the next in the config's order feeds the inputs.

    The plan's own stages mean nothing then, so it has to be planned again.

    Raises:
        UserError: it is the only host, or the only one that some units may run on.
    """
    if len(plan.cluster) == 1:
        raise UserError(f"without {name}, the only host, nothing is left to run on")
    asked = plan.scheduling
    pins = tuple(replace(pin, hosts=tuple(host for host in pin.hosts if host != name)) for pin in asked.pins)
    for pin in pins:
        if not pin.hosts:
            raise UserError(
                f"without {name}, units {pin.units[0]}-{pin.units[1]}, which are pinned to it, have no host"
            )
    order = asked.host_order
    return replace(
        plan,
        cluster=tuple(host for host in plan.cluster if host != name),
        scheduling=replace(
            asked,
            pins=pins,
            exclude=tuple(host for host in asked.exclude if host != name),
            host_order=None if order is None else tuple(host for host in order if host != name),
        ),
    )
