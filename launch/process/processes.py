"""Identifies processes on this machine, so that one that has ended can be detected."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Process", "boot_identity", "start_time"]


def start_time(process: int) -> str | None:
    """Clock ticks from boot to the process's start, where it runs: an id may be used again, but not with the same."""
    try:
        fields = (
            Path(f"/proc/{process}/stat")
            .read_text(encoding="utf-8", errors="surrogateescape")
            .rpartition(")")[2]
            .split()
        )
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def boot_identity() -> str:
    """Of this boot of this machine: processes with equal ones share a monotonic clock."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return socket.gethostname()


@dataclass(frozen=True)
class Process:
    """A process of some machine."""

    machine: str = ""
    """Its boot, and the namespace in which its number counts; empty where that cannot be told."""
    number: int = 0
    started: str = ""

    @staticmethod
    def own() -> Process:
        started = start_time(os.getpid())
        return Process(_machine() if started else "", os.getpid(), started or "")

    @staticmethod
    def read(values: dict[str, Any]) -> Process:
        return Process(str(values["machine"]), int(values["number"]), str(values["started"]))

    def values(self) -> dict[str, Any]:
        return asdict(self)

    def has_ended(self) -> bool:
        """Whether it is known to have ended: it was on this machine, and is no more."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's, which /proc may hide
            return start_time(self.number) not in (None, self.started)
        return start_time(self.number) != self.started


def _machine() -> str:
    with contextlib.suppress(OSError):
        return f"{boot_identity()} {os.readlink('/proc/self/ns/pid')}"
    return ""
