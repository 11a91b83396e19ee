"""Keeps a core from idling while nothing else uses it, until the parent process is gone; run as a file.

A core that a host's share leaves idle half of the time sleeps, clocks down, and on a virtual machine is lent to others,
who leave nothing in its caches: bert_base on hosts of 0.45 cores alone on a core each was 17 % slower than its profile
says, and is within 1 % beside this. A board that computes all the time does not idle.
"""

from __future__ import annotations

import os
import sys

__all__: list[str] = []

TURNS = 100_000


def main(parent: int) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while os.getppid() == parent:
        for _ in range(TURNS):
            os.sched_yield()  # a group that is granted time again takes the core only here, or at the next tick


if __name__ == "__main__":
    main(int(sys.argv[1]))
