"""Finds out which rank this process is, and the address of rank 0. Imports no torch."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from edgecompile.contract.cluster import Host
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.common.addresses import Address, read_address

__all__ = [
    "Endpoint",
    "address_is_here",
    "address_towards",
    "check_reachable",
    "choose_rank",
    "find_endpoint",
    "is_loopback",
    "is_this_machine",
    "loopback_trap",
    "rank_environment",
    "resolve",
]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the store is that the ranks meet at."""

    address: str
    port: int
    agent: bool = False
    """torchrun's agent owns the store, so that rank 0 is a client of it too."""
    prefix: str = ""
    given: bool = False
    """`--master` or torchrun's environment said so, not the plan."""
    listen_fd: int | None = None
    """A listening socket that --local opened for rank 0, so that no other process takes its port in between."""


def resolve(address: str) -> str | None:
    """A numeric address for a name, or None where it has none."""
    try:
        return str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        return None


def is_loopback(address: str) -> bool:
    numeric = resolve(address)
    return numeric is not None and ipaddress.ip_address(numeric.partition("%")[0]).is_loopback


def loopback_trap(plan: Plan, rank: int, endpoint: Endpoint) -> tuple[str, str] | None:
    """What is wrong with rank 0's address on this machine, and what to do; None where nothing is.

    Debian enters a machine's own name into /etc/hosts as 127.0.1.1: a rank 0 that listens there is reached by no one
    else, while the others, which ask the network for that name, wait in vain.
    """
    address = endpoint.address
    if not is_loopback(address) or (endpoint.given and _is_meant_for_loopback(address)):
        return None
    far = [host for host in plan.hosts if host.rank and not is_loopback(host.address)]
    if not far or (rank and rank not in {host.rank for host in far}):
        return None
    numeric, own = resolve(address), address_towards(far[0].address)
    what = f"{address} is {numeric} on this machine" if numeric != address else f"rank 0's address is {address}"
    found = f"{what}, where {far[0].name} ({far[0].address}) and other machines cannot reach it"
    entered = f"remove {address} from the line of {numeric} in /etc/hosts here, or " if numeric != address else ""
    known = f" ({own} here)" if own is not None and not rank else ""
    fix = f"{entered}give every rank --master ADDRESS:PORT with rank 0's address on the network{known}"
    return found, fix


def check_reachable(plan: Plan, rank: int, endpoint: Endpoint) -> None:
    """Raises UserError where the ranks on other machines could never meet at rank 0's address."""
    trap = loopback_trap(plan, rank, endpoint)
    if trap is not None:
        raise UserError(": ".join(trap))


def address_towards(address: str) -> str | None:
    """This machine's address on the way to another; None where there is no way, or it is the loopback."""
    numeric = resolve(address)
    if numeric is None:
        return None
    try:
        with socket.socket(socket.AF_INET6 if ":" in numeric else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((numeric, 9))
            own = str(probe.getsockname()[0])
    except OSError:
        return None
    return None if is_loopback(own) else own


def _is_meant_for_loopback(address: str) -> bool:
    """An address that says loopback itself; any other name gets there by an entry in this machine's /etc/hosts."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        name = address.lower().rstrip(".")
        return name in ("localhost", "ip6-localhost", "ip6-loopback") or name.endswith(".localhost")


def address_is_here(address: str) -> bool:
    """Whether an address is this machine's: only such a one can be bound."""
    numeric = resolve(address)
    if numeric is None:
        return False
    try:
        with socket.socket(socket.AF_INET6 if ":" in numeric else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((numeric, 0))
    except OSError:
        return False
    return True


def choose_rank(plan: Plan, wanted: int | None, environ: Mapping[str, str]) -> int:
    """This process's rank: `--rank`, else the plan's host that is this machine, which `$RANK` must agree with.

    Raises:
        UserError: the rank is out of range, no host or several are this machine, or `$RANK` says otherwise.
    """
    given = _number(environ, "RANK")
    size = _number(environ, "WORLD_SIZE")
    if given is not None and size is not None and size != len(plan.hosts):
        raise UserError(f"WORLD_SIZE is {size}, the plan has {_ranks(plan)}: start {len(plan.hosts)} processes")
    if wanted is not None:
        if given is not None and given != wanted:
            raise UserError(f"--rank {wanted} and RANK={given} in the environment differ: give one of them")
        return _in_range(plan, wanted, "--rank")
    if given is not None:
        _in_range(plan, given, "RANK")
        if all(is_loopback(host.address) for host in plan.hosts):
            return given
    here = [host.rank for host in plan.hosts if is_this_machine(host)]
    if given is not None:
        if given not in here:
            host = plan.hosts[given]
            raise UserError(
                f"RANK={given} is {host.name} ({host.address}) in the plan, and this machine ({_own_name()}) is not: "
                f"start that rank there, or say --rank {given} to run it here"
            )
        return given
    if len(here) == 1:
        return here[0]
    names = ", ".join(f"{host.name} ({host.address})" for host in plan.hosts)
    if not here:
        raise UserError(
            f"this machine ({_own_name()}) is not one of the plan's hosts {names}: "
            "say --rank N for one rank, or --local to run all of them here"
        )
    raise UserError(
        f"{len(here)} of the plan's hosts are this machine: say which with --rank {here[0]} to {here[-1]}, "
        "or --local to run all of them here"
    )


def rank_environment(plan: Plan, environ: Mapping[str, str]) -> Mapping[str, str]:
    """What the environment says of ranks: nothing where torchrun starts this one rank again and again, and no other."""
    alone = environ.get("WORLD_SIZE") == "1" and len(plan.hosts) > 1
    return {} if alone and environ.get("TORCHELASTIC_RUN_ID") else environ


def find_endpoint(
    plan: Plan, master: Address | None, environ: Mapping[str, str], listen_fd: int | None = None
) -> Endpoint:
    """Where the ranks meet: `--master`, else torchrun's environment, else the plan's rank 0.

    Raises:
        UserError: torchrun's address cannot be read.
    """
    host = plan.hosts[0]
    if master is not None:
        return Endpoint(address=master.host, port=master.port, given=True, listen_fd=listen_fd)
    if environ.get("RANK") and environ.get("MASTER_ADDR") and environ.get("MASTER_PORT"):
        given = read_address("MASTER_ADDR:MASTER_PORT", f"{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}")
        agent = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        prefix = f"attempt-{attempt}"
        return Endpoint(address=given.host, port=given.port, agent=agent, prefix=prefix, given=True)
    return Endpoint(address=host.address, port=host.port)


def _number(environ: Mapping[str, str], key: str) -> int | None:
    text = environ.get(key, "")
    if not text:
        return None
    if not text.strip().isdecimal():
        raise UserError(f"invalid value {text!r} for {key} in the environment: expected a number")
    return int(text)


def _in_range(plan: Plan, rank: int, what: str) -> int:
    if not 0 <= rank < len(plan.hosts):
        raise UserError(f"{what} {rank} is out of range: the plan has {_ranks(plan)}")
    return rank


def _ranks(plan: Plan) -> str:
    return f"ranks 0 to {len(plan.hosts) - 1}" if len(plan.hosts) > 1 else "rank 0 alone"


def _own_name() -> str:
    return socket.gethostname()


def is_this_machine(host: Host) -> bool:
    own = {_own_name(), _own_name().partition(".")[0], os.environ.get("HOSTNAME", "")} - {""}
    return host.name in own or address_is_here(host.address)
