"""Reads the kernel's state of this process's TCP connections (Linux only)."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Kernel", "kernel_of", "own_connections", "plain", "put_first"]

TCP_INFO = getattr(socket, "TCP_INFO", 11)
INFO = struct.Struct("=8xI92x16x2Q")
"""struct tcp_info up to tcpi_bytes_received, as Linux 4.2 and later fill it in: tcpi_rto, tcpi_bytes_acked and that."""
LOOPBACK = ("127.", "::1", "::ffff:127.")
INTERACTIVE = 6
"""TC_PRIO_INTERACTIVE: the band of pfifo_fast and prio that goes first; no privilege is needed for it."""


@dataclass(frozen=True)
class Kernel:
    """One connection as the kernel sees it."""

    late_s: float
    """After so long without an acknowledgement TCP sends again: what round trips took lately, and four times how much
    they varied."""
    acked_bytes: int
    """Whose acknowledgement came: the other end's machine has them, whatever the process there does."""
    received_bytes: int
    """Once each and in order: that more come shows that acknowledgements arrive there."""


def kernel_of(connection: socket.socket) -> Kernel | None:
    """None where the system does not say: it is not Linux, or the connection is gone."""
    if sys.platform != "linux":
        return None
    try:
        raw = connection.getsockopt(socket.IPPROTO_TCP, TCP_INFO, INFO.size)
    except OSError:
        return None
    if len(raw) < INFO.size:
        return None
    rto_us, acked_bytes, received_bytes = INFO.unpack(raw)
    return Kernel(rto_us / 1e6, acked_bytes, received_bytes)


def own_connections() -> Iterator[tuple[socket.socket, str, set[int]]]:
    """This process's TCP connections to other machines, whoever opened them: each with the other end's address, and the
    ports of both ends. They are duplicates, closed when the next one is asked for.
    """
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                    address, port = connection.getpeername()[:2]
                    if not address.startswith(LOOPBACK):
                        yield connection, plain(address), {port, connection.getsockname()[1]}


def plain(address: str) -> str:
    """An IPv4 address as such, also where a socket of IPv6 writes it."""
    return address.removeprefix("::ffff:")


def put_first(connection: socket.socket) -> None:
    """Its few bytes go before others where the interface's queue knows bands, and are not kept to be sent together."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "SO_PRIORITY"):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, INTERACTIVE)
