"""Identifies processes on this machine, so that one that has ended can be detected."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

__all__ = ["boot_identity", "namespace_identity", "start_time"]


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


def namespace_identity() -> str:
    """Of this boot, and of the namespace in which process numbers count; empty where that cannot be told."""
    with contextlib.suppress(OSError):
        return f"{boot_identity()} {os.readlink('/proc/self/ns/pid')}"
    return ""
