"""How much of this machine's processor time others take while something is measured. Linux; elsewhere always 0."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["Neighbours"]

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


class Neighbours:
    """Cores that processes other than this one and its descendants kept busy since this was made."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic()
        self._before_s = _others_s()

    def cores(self) -> float:
        elapsed_s = time.monotonic() - self._begin_s
        return max(0.0, (_others_s() - self._before_s) / elapsed_s) if elapsed_s > 0 else 0.0


def _others_s() -> float:
    """Seconds that all cores were busy, without what this process and those below it used."""
    if not (PROC / "stat").exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, (PROC / "stat").read_text().split()[1:9])
    parents, used = {}, {}
    for entry in PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        used[int(entry.name)] = sum(map(int, fields[11:13]))
    own = sum(ticks for number, ticks in used.items() if _is_below(number, parents))
    return (user + nice + system + irq + softirq + steal - own) / TICKS_A_SECOND


def _is_below(number: int, parents: dict[int, int]) -> bool:
    while number in parents:
        if number == os.getpid():
            return True
        number = parents[number]
    return False
