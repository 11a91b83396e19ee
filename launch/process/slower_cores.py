"""Makes computing take as long as on slower cores: where a host is emulated, and has only a part of a core."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

__all__ = ["VARIABLE", "cpu_share", "slowed_down"]

VARIABLE = "EDGELAUNCH_CPU_SHARE"
"""In the environment of an emulated host's processes: how many of this machine's cores its own are worth."""

P = ParamSpec("P")
R = TypeVar("R")


def cpu_share(environ: Mapping[str, str]) -> float | None:
    """Of this host; None: it is not emulated, or has all cores."""
    return float(environ[VARIABLE]) if environ.get(VARIABLE) else None


def slowed_down(run: Callable[P, R], share: float | None) -> Callable[P, R]:
    """`run`, whose calls take the processor time that the process spends in them over `share`, or longer.

    A control group's quota keeps the average alone: a group that has waited computes at full speed until it has used up
    what it saved meanwhile. 4.2 ms of work at 0.3 cores took 4.5 to 10 ms, where a slower core takes 14.

    Args:
        share: None: as fast as it can.
    """
    if share is None:
        return run

    def as_slow(*args: P.args, **kwargs: P.kwargs) -> R:
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        result = run(*args, **kwargs)
        due_s = begin_s + (time.process_time() - begin_cpu_s) / share
        if (left_s := due_s - time.perf_counter()) > 0:
            time.sleep(left_s)
        return result

    return as_slow
