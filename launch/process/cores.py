"""The cores that this process may use, and each rank's share of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgecompile.contract.plan import Plan

__all__ = ["available_cores", "keep_to_cores", "local_threads", "share_of_cores"]

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_threads(plan: Plan, rank: int, num_here: int) -> int:
    """Intra-op threads of a rank that shares this machine with others: no more than its share of the cores."""
    cores = available_cores()
    wanted = plan.hosts[rank].threads or cores
    return max(1, min(wanted, cores // num_here))


def share_of_cores(rank: int, num_here: int) -> tuple[int, ...]:
    """The numbers of the cores that one of several ranks on this machine is kept to; none: it may use all.

    A rank's threads that send and receive otherwise take the core on which another rank computes, in slices of several
    milliseconds, while its own waits for what they hold. Two threads of one core are the same rank's. Cores that are
    left over are everybody's.
    """
    if num_here < 2 or not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0), key=lambda core: (_first_sibling(core), core))
    each = len(cores) // num_here
    if not each:
        return ()
    return tuple(sorted({*cores[rank * each : (rank + 1) * each], *cores[num_here * each :]}))


def _first_sibling(core: int) -> int:
    try:
        return int(Path(SIBLINGS.format(core)).read_text(encoding="ascii").replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return core


def keep_to_cores(cores: tuple[int, ...]) -> None:
    """This thread, and those that it starts from now on."""
    if cores:
        with contextlib.suppress(OSError):  # a core went away meanwhile: all are as good
            os.sched_setaffinity(0, cores)
