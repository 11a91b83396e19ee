"""Network namespaces connected by links of given rates. Linux, root, iproute2.

All interfaces are made inside the namespaces: the machine's own network is not touched, and does not reach them. A rate
is what a TCP stream gets, as everywhere in a plan, and as `edgelaunch links` measures it; headers come on top.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgecompile.contract.errors import UserError

__all__ = ["Namespaces", "namespaces_named", "remove_namespaces", "tool"]

INTERFACE = "eth0"
HUB_BRIDGE = "br0"
GATEWAY = "10.213.255.254"
HEADERS = 1514 / 1448
"""Bytes on an Ethernet with frames of 1500 for each byte of a TCP stream with time stamps; tbf counts the former."""
PACKET_S = 0.01
MIN_PACKET_BYTES, MAX_PACKET_BYTES = 9_000, 60_000
"""A packet is what the slowest interface sends in that time, as cards that segment by themselves take them. With frames
of 1500 bytes a receiver would be woken for each, at 20 us a time: a host with a quarter of a core, fed at 50 Mbit/s,
lost 13 % of it, which boards with a core to spare for the network do not."""
QUEUE_S = 0.1
MIN_QUEUE_BYTES = 32_000
FRAME_BYTES = 1514
CONGESTION_CONTROL = "cubic"
"""What boards use; `bbr`, where it is this machine's default, sends short messages at half a gigabit link's rate."""


class Namespaces:
    """One namespace a rank, named `{mark}-{rank}`, and the rates between them: call `star`, `mesh` or `channel`."""

    def __init__(self, mark: str, num_ranks: int) -> None:
        self._mark, self._num_ranks = mark, num_ranks
        self._packet_bytes = MAX_PACKET_BYTES

    def name(self, rank: int | str) -> str:
        return f"{self._mark}-{rank}"

    def address(self, rank: int) -> str:
        return f"10.213.{rank // 250}.{rank % 250 + 1}"

    def star(self, rates: Sequence[float | None]) -> None:
        """Each rank's interface has its own rate, both ways; a switch between them that is never in the way.

        Args:
            rates: bytes a second by rank; None: unlimited.
        """
        self._hub()
        self._set_packets(rates)
        for rank, rate in enumerate(rates):
            port = self._port(rank)
            self._shape(rank, INTERFACE, rate)
            self._shape("hub", port, rate)
            _ip("-n", self.name(rank), "address", "add", f"{self.address(rank)}/32", "dev", INTERFACE)
            self._route(rank, "10.213.0.0/16", "dev", INTERFACE)

    def mesh(self, rates: Mapping[tuple[int, int], float]) -> None:
        """Each ordered pair has a cable and a rate of its own.

        Args:
            rates: bytes a second by (source, destination); a missing one is unlimited.
        """
        self._set_packets(list(rates.values()))
        for rank in range(self._num_ranks):
            self._add(rank)
            _ip("-n", self.name(rank), "address", "add", f"{self.address(rank)}/32", "dev", "lo")
        for first in range(self._num_ranks):
            for second in range(first + 1, self._num_ranks):
                self._cable(first, f"to{second}", second, f"to{first}")
                for source, destination in ((first, second), (second, first)):
                    self._shape(source, f"to{destination}", rates.get((source, destination)))
                    self._route(source, f"{self.address(destination)}/32", "dev", f"to{destination}")

    def channel(self, rate: float | None) -> None:
        """All that any rank sends passes one channel of this rate (bytes a second; None: unlimited), once."""
        self._hub()
        self._set_packets([rate])
        self._add("gateway")
        self._cable("hub", "uplink", "gateway", INTERFACE)
        _ip("-n", self.name("hub"), "link", "set", "uplink", "master", HUB_BRIDGE)
        self._shape("hub", "uplink", rate)
        # every packet goes up to the gateway, through the channel, and comes back down unshaped
        _ip("-n", self.name("gateway"), "address", "add", f"{GATEWAY}/16", "dev", INTERFACE)
        self._set("gateway", "ip_forward", 1)
        for where in ("all", INTERFACE):
            self._set("gateway", f"conf/{where}/send_redirects", 0)
        for rank in range(self._num_ranks):
            self._port(rank)
            _ip("-n", self.name(rank), "address", "add", f"{self.address(rank)}/32", "dev", INTERFACE)
            self._route(rank, "10.213.0.0/16", "via", GATEWAY, "dev", INTERFACE, "onlink")

    def prefix(self, rank: int) -> list[str]:
        """Before a command: runs it in the rank's namespace."""
        return [tool("ip"), "netns", "exec", self.name(rank)]

    def remove(self) -> None:
        remove_namespaces(namespaces_named(f"{self._mark}-"))

    def _set_packets(self, rates: Sequence[float | None]) -> None:
        slowest = min((rate for rate in rates if rate is not None), default=math.inf)
        self._packet_bytes = round(min(MAX_PACKET_BYTES, max(MIN_PACKET_BYTES, slowest * PACKET_S)))

    def _add(self, rank: int | str) -> None:
        _ip("netns", "add", self.name(rank))
        _ip("-n", self.name(rank), "link", "set", "lo", "up")

    def _hub(self) -> None:
        self._add("hub")
        _ip("-n", self.name("hub"), "link", "add", HUB_BRIDGE, "type", "bridge")
        _ip("-n", self.name("hub"), "link", "set", HUB_BRIDGE, "up")

    def _port(self, rank: int) -> str:
        """A namespace for the rank with a cable to the hub; returns the hub's end of it."""
        self._add(rank)
        port = f"port{rank}"
        self._cable(rank, INTERFACE, "hub", port)
        _ip("-n", self.name("hub"), "link", "set", port, "master", HUB_BRIDGE)
        return port

    def _cable(self, first: int | str, interface: str, second: int | str, other: str) -> None:
        ends = (self.name(first), interface), (self.name(second), other)
        _ip("link", "add", interface, "netns", ends[0][0], "type", "veth", "peer", "name", other, "netns", ends[1][0])
        for namespace, end in ends:
            _ip("-n", namespace, "link", "set", end, "gso_max_size", str(self._packet_bytes), "up")

    def _shape(self, rank: int | str, interface: str, rate: float | None) -> None:
        """Limits what leaves through an interface to `rate` bytes of a TCP stream a second."""
        if rate is None:
            return
        rate *= HEADERS
        burst = round(self._packet_bytes * HEADERS) + FRAME_BYTES  # a whole packet, else tbf takes it apart
        queue = round(max(MIN_QUEUE_BYTES, rate * QUEUE_S)) + burst
        _run(tool("tc"), "-n", self.name(rank), "qdisc", "add", "dev", interface, "root", "tbf",
             "rate", f"{max(8, round(rate * 8))}bit", "burst", str(burst), "limit", str(queue))  # fmt: skip

    def _route(self, rank: int, *words: str) -> None:
        known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text(encoding="utf-8").split()
        control = ("congctl", CONGESTION_CONTROL) if CONGESTION_CONTROL in known else ()
        _ip("-n", self.name(rank), "route", "add", *words, "src", self.address(rank), *control)

    def _set(self, rank: int | str, key: str, value: int) -> None:
        file = f"/proc/sys/net/ipv4/{key}"
        _ip("netns", "exec", self.name(rank), "sh", "-c", f"echo {value} > {file}")


def namespaces_named(prefix: str) -> list[str]:
    lines = _ip("netns", "list").splitlines()
    return [line.split()[0] for line in lines if line.startswith(prefix)]


def remove_namespaces(names: Sequence[str]) -> None:
    """With their interfaces. One that another start removed meanwhile is not an error."""
    for name in names:
        subprocess.run([tool("ip"), "netns", "delete", name], capture_output=True, check=False)


def tool(name: str) -> str:
    """Where `ip` or `tc` is: root's PATH may lack the folder.

    Raises:
        UserError: it is not installed.
    """
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        raise UserError(f"--emulate needs the command {name}: install iproute2")
    return found


def _ip(*words: str) -> str:
    return _run(tool("ip"), *words)


def _run(*command: str) -> str:
    # a session of its own: Ctrl-C reaches this process, which then removes what is half-made
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False,
                          start_new_session=True)  # fmt: skip
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        refused = "not permitted" in said or "denied" in said
        hint = ": in a container, start that with --privileged" if refused else ""
        words = " ".join([os.path.basename(command[0]), *command[1:]])
        raise UserError(f"--emulate cannot make its network: {words}: {said}{hint}")
    return done.stdout
