"""Makes computing take as long as on slower cores: where a host is emulated, and has only a part of a core."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Protocol, TypeVar

__all__ = ["VARIABLE", "cpu_share", "slowed_down"]

VARIABLE = "EDGELAUNCH_CPU_SHARE"
"""In the environment of an emulated host's processes: how many of this machine's cores its own are worth."""

T = TypeVar("T")
R = TypeVar("R")


class Steps(Protocol):
    """What the other hosts of an emulation take from a step: see StepsAlone."""

    def begin(self, kind: Hashable) -> None: ...
    def end(self, kind: Hashable, cpu_s: float) -> float: ...


def cpu_share(environ: Mapping[str, str]) -> float | None:
    """Of this host; None: it is not emulated, or has all cores."""
    return float(environ[VARIABLE]) if environ.get(VARIABLE) else None


def slowed_down(
    run: Callable[[T, Mapping[str, int]], R], share: float | None, steps: Steps | None = None
) -> Callable[[T, Mapping[str, int]], R]:
    """`run`, of a message's tensors and sizes, whose calls take the processor time that the process spends in them over
    `share`, or longer.

    A control group's quota keeps the average alone: a group that has waited computes at full speed until it has used up
    what it saved meanwhile. 4.2 ms of work at 0.3 cores took 4.5 to 10 ms, where a slower core takes 14.

    Args:
        share: None: as fast as it can.
        steps: takes out of a call's processor time what other hosts' calls make it longer.
    """
    if share is None:
        return run

    def as_slow(tensors: T, sizes: Mapping[str, int]) -> R:
        begin_s, kind = time.perf_counter(), tuple(sizes.values())
        if steps is not None:
            steps.begin(kind)
        begin_cpu_s = time.process_time()
        try:
            result = run(tensors, sizes)
        finally:
            cpu_s = time.process_time() - begin_cpu_s
            if steps is not None:
                cpu_s = steps.end(kind, cpu_s)
        due_s = begin_s + cpu_s / share
        if (left_s := due_s - time.perf_counter()) > 0:
            time.sleep(left_s)
        return result

    return as_slow
