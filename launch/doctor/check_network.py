"""Doctor checks: names, addresses, interfaces, ports and the shared secret."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_rate
from edgelaunch.common.failures import rank_name
from edgelaunch.common.identity import Endpoint, address_is_here, is_loopback, resolve
from edgelaunch.common.secret import find_secret
from edgelaunch.doctor.findings import FAILS, NOTE, SLOWER, CheckContext, Finding

if TYPE_CHECKING:
    from edgelaunch.link_test.hosts_option import Figures

__all__ = ["check_address", "check_interface", "check_port", "check_secret", "judge_links"]

REACH_S = 3.0
SIOCGIFADDR = 0x8915


def check_address(context: CheckContext) -> Iterator[Finding]:
    if context.endpoint is None:
        return
    plan, (rank,) = context.plan, context.ranks
    for host in plan.hosts:
        if resolve(host.address) is None:
            fix = f"add it to /etc/hosts, or compile with hosts.members.{host.name}.address=an IP address"
            what = f"{rank_name(plan, host.rank)}: {host.address} has no address"
            verdict = FAILS if host.rank in (0, rank) else NOTE
            yield Finding(check="name", found=what, verdict=verdict, fix=fix)
    own = plan.hosts[rank]
    if address_is_here(own.address):
        yield Finding(check="address", found=f"{own.address} is this machine")
    else:
        fix = "fine where --rank and --master are set on purpose; else compile with this machine's address"
        yield Finding(check="address", found=f"{own.address} is not this machine", verdict=NOTE, fix=fix)


def check_interface(context: CheckContext) -> Iterator[Finding]:
    """A network card that has agreed on a lower rate than the plan counts on: a bad cable, or an old switch."""
    if context.endpoint is None:
        return
    planned = context.plan.hosts[context.ranks[0]].limits.bandwidth_bytes_per_s
    try:
        address = context.own_address()
    except UserError:
        return
    name = _interface_of(address)
    if name is None or is_loopback(address):
        return
    try:
        rate = int(Path(f"/sys/class/net/{name}/speed").read_text(encoding="utf-8")) * 1e6 / 8
    except (OSError, ValueError):
        rate = -1.0
    if rate <= 0:
        yield Finding(check="interface", found=f"{name}, of unknown rate: edgelaunch links measures it")
    elif planned is not None and rate < SLOWER * planned:
        fix = "check cable and switch, or compile with this bandwidth for the host"
        found = f"{name} runs at {format_rate(rate)}, the plan counts on {format_rate(planned)}"
        yield Finding(check="interface", found=found, verdict=FAILS, fix=fix)
    else:
        yield Finding(check="interface", found=f"{name}, {format_rate(rate)}")


def check_port(context: CheckContext) -> Iterator[Finding]:
    if context.endpoint is None or len(context.plan.hosts) < 2:
        return
    endpoint = context.endpoint
    where = f"{endpoint.address}:{endpoint.port}"
    yield (_port_to_listen if 0 in context.ranks else _port_to_reach)(endpoint, where)


def _port_to_listen(endpoint: Endpoint, where: str) -> Finding:
    try:
        family, _, _, _, target = socket.getaddrinfo(endpoint.address, endpoint.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        fix = "stop what uses it, or give every rank --master ADDRESS:PORT with an address of this machine"
        found = f"{where} is in use" if taken else f"cannot listen on {where}: {error.strerror}"
        return Finding(check="port", found=found, verdict=FAILS, fix=fix)
    return Finding(check="port", found=f"{where} is free")


def _port_to_reach(endpoint: Endpoint, where: str) -> Finding:
    begin = time.monotonic()
    try:
        socket.create_connection((endpoint.address, endpoint.port), timeout=REACH_S).close()
    except ConnectionRefusedError:
        return Finding(check="rank 0", found=f"its machine answers, nothing listens on {where} yet", verdict=NOTE,
                       fix="start rank 0; nothing is wrong if you are about to")  # fmt: skip
    except OSError as error:
        fix = "check rank 0's power, cable, address and firewall (TCP, that port and all above 1023)"
        found = f"cannot reach {where}: {error.strerror or error}"
        return Finding(check="rank 0", found=found, verdict=FAILS, fix=fix)
    return Finding(check="rank 0", found=f"listens on {where}, {(time.monotonic() - begin) * 1e3:.1f} ms away")


def check_secret(context: CheckContext) -> Iterator[Finding]:
    if context.endpoint is None:
        return
    try:
        secret = find_secret(context.plan, context.endpoint.address, context.secret_file, os.environ)
    except UserError as error:
        yield Finding.of_error("secret", error)
        return
    yield Finding(check="secret", found="is there" if secret is not None else "not needed on one machine")


def judge_links(plan: Plan, found: Mapping[tuple[int, int], Figures]) -> Iterator[Finding]:
    """Measured rates beside the plan's."""
    for (source, destination), figures in sorted(found.items()):
        names = f"{plan.hosts[source].name} -> {plan.hosts[destination].name}"
        planned = plan.link(source, destination)
        measured = figures.bandwidth_bytes_per_s
        if planned is None or measured >= SLOWER * planned.bandwidth_bytes_per_s:
            yield Finding(check="link", found=f"{names}: {format_rate(measured)}")
            continue
        fix = "check cable, switch or Wi-Fi; or plan with what there is: edgelaunch links PLAN --output hosts.yaml"
        told = f"{names}: {format_rate(measured)}, the plan counts on {format_rate(planned.bandwidth_bytes_per_s)}"
        yield Finding(check="link", found=told, verdict=FAILS, fix=fix)


def _interface_of(address: str) -> str | None:
    """The interface that has this IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):
                if socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)[20:24]) == address:
                    return name
    return None
