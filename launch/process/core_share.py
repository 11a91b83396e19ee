"""Makes a part of a program take as long as it would with a share of a core."""

from __future__ import annotations

import time
from collections.abc import Mapping

__all__ = ["CoreShare", "emulated_share"]

VARIABLE = "EDGELAUNCH_CPU_SHARE"


def emulated_share(environ: Mapping[str, str]) -> float | None:
    """Of the host that this process is emulated on, as emulation/enter_cgroups.py says; None: it is on a real one."""
    return float(environ[VARIABLE]) if environ.get(VARIABLE) else None


class CoreShare:
    """A context whose work takes its processor time over the share, at least.

    A control group's quota bounds the mean over its periods alone: work that comes seldom, as a single request's does,
    would run on what was not used before, as fast as the whole core.
    """

    def __init__(self, cpu_share: float | None) -> None:
        """None: it takes what it takes."""
        self._share = cpu_share
        self._began_s = self._used_s = 0.0

    def __enter__(self) -> None:
        if self._share is not None:
            self._began_s, self._used_s = time.monotonic(), time.process_time()

    def __exit__(self, *_: object) -> None:
        if self._share is None:
            return
        due_s = self._began_s + (time.process_time() - self._used_s) / self._share
        left_s = due_s - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
