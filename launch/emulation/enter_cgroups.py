"""Starts a command in control groups and on given cores; run as a file with CORES GROUPS COMMAND...

CORES: numbers joined by commas, or empty for all. GROUPS: folders of control groups joined by colons. The process joins
before it becomes the command, so that nothing of the command runs outside.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

__all__: list[str] = []

SLICE_NS = 100_000_000
"""How long the command may run before another gets the core, as long as a group's longest period: hosts that share a
core would drive each other's weights out of its caches every 3 ms, which costs 6 to 15 % of their time, and boards of
their own do not. Linux 6.12 and later respect it."""
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "armv7l": 380}


class _SchedAttr(ctypes.Structure):
    """`struct sched_attr`, as sched_setattr(2) has it."""

    _fields_ = (
        ("size", ctypes.c_uint32), ("policy", ctypes.c_uint32), ("flags", ctypes.c_uint64), ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32), ("runtime", ctypes.c_uint64), ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )  # fmt: skip


def ask_for_slices() -> None:
    """Best effort: an older kernel says no, or takes no notice. Threads and the command inherit it."""
    number = SCHED_SETATTR.get(platform.machine())
    if number is not None:
        wanted = _SchedAttr(size=ctypes.sizeof(_SchedAttr), nice=os.nice(0), runtime=SLICE_NS)
        ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0)


def main(cores: str, groups: str, *command: str) -> None:
    for group in filter(None, groups.split(":")):
        with open(os.path.join(group, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    ask_for_slices()
    os.execvp(command[0], command)  # noqa: S606 - the command is our own


if __name__ == "__main__":
    main(*sys.argv[1:])
