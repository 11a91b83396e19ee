"""Two network namespaces joined by one link of a given rate, both ways. Linux, root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

BURST_BYTES = 32 << 10
QUEUE = "400ms"


@dataclass(frozen=True)
class SlowLink:
    """Two ends of a link; `prefix[i]` before a command runs it at end i."""

    prefix: tuple[tuple[str, ...], tuple[str, ...]]
    address: tuple[str, str]
    interface: tuple[str, str]


def why_not() -> str | None:
    """Why this machine has no slow link to offer; None where it has."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install iproute2"
    return None


@contextlib.contextmanager
def slow_link(rate: str) -> Iterator[SlowLink]:
    """A link of `rate`, as tc writes rates (10mbit); whatever happens, the namespaces are gone afterwards."""
    mark = os.getpid()
    names = tuple(f"edgebench-{mark}-{end}" for end in (0, 1))
    interfaces = tuple(f"eb{mark}{end}" for end in "ab")
    addresses = ("10.213.77.1", "10.213.77.2")
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        _run("ip", "link", "add", interfaces[0], "netns", names[0], "type", "veth",
             "peer", "name", interfaces[1], "netns", names[1])  # fmt: skip
        for name, interface, address in zip(names, interfaces, addresses, strict=True):
            inside = ("ip", "netns", "exec", name)
            _run(*inside, "ip", "link", "set", "lo", "up")
            _run(*inside, "ip", "address", "add", f"{address}/24", "dev", interface)
            _run(*inside, "ip", "link", "set", interface, "up")
            _run(*inside, "tc", "qdisc", "add", "dev", interface, "root", "tbf",
                 "rate", rate, "burst", str(BURST_BYTES), "latency", QUEUE)  # fmt: skip
        prefix = tuple(("ip", "netns", "exec", name) for name in names)
        yield SlowLink((prefix[0], prefix[1]), addresses, (interfaces[0], interfaces[1]))
    finally:
        for name in names:  # a veth pair goes with its namespace
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
