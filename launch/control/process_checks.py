"""Identifies this process, and detects that another one of this machine has ended."""

from __future__ import annotations

import os

from edgelaunch.control.core.membership import Process
from edgelaunch.process.processes import namespace_identity, start_time

__all__ = ["has_ended", "own_process"]


def own_process() -> Process:
    started = start_time(os.getpid())
    return Process(namespace_identity() if started else "", os.getpid(), started or "")


def has_ended(process: Process) -> bool:
    """Whether it is known to have ended: it was on this machine, and is no more."""
    if not process.machine or process.machine != namespace_identity():
        return False
    try:
        os.kill(process.number, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, which /proc may hide
        return start_time(process.number) not in (None, process.started)
    return start_time(process.number) != process.started
