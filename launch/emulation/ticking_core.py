"""Interrupts a core every half millisecond, until the parent process is gone; run as a file with PARENT CORE.

The kernel sees that a group has used up its share when something else is to run, or at its tick, which comes every 4 ms
on common kernels. One token of a small language model takes less on a host, so that a host of 0.3 cores would compute
it like a whole one: measured, 22 ms for a token over three hosts that should take 41. What runs beside for a
microsecond makes it look.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

__all__: list[str] = []

INTERVAL_S = 0.0005
HIGHEST = -20


def main(parent: int, core: int) -> None:
    os.sched_setaffinity(0, {core})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:  # a container that has no real-time priorities
        with contextlib.suppress(OSError):  # nor any above the usual one: it then looks less often
            os.nice(HIGHEST)
    while os.getppid() == parent:
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
