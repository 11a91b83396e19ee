"""Tells what emulated hosts take from each other: their cores share one memory, which boards do not.

A step that reads many weights takes up to a third longer while other hosts' steps read theirs. Now and then a step has
the machine for itself, and is compared with those before it: what it takes less is due to the others that computed
during those, and is taken out of each step by how long others computed during it.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
import time
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

__all__ = ["VARIABLE", "StepsAlone", "make_turns", "steps_alone", "told"]

VARIABLE = "EDGELAUNCH_CPU_TURNS"
"""In the environment of emulated hosts: this one's number, and the folder in which they agree on turns."""
LEAST_BEFORE, MOST_BEFORE = 4, 8
"""Steps of a kind that one alone is compared with."""
FIRST_SHARES, MOST_SHARES = 3, 9
SOON, SELDOM = 4, 48
"""Every so many steps of a kind one is alone: until there are the first shares, and then. The others wait for it."""
LEAST_OVERLAP = 0.2
LONGEST_S = 0.05
"""Steps that take longer do not wait for memory most of the time: chunks of prompts."""
LEAST_PART = 0.5
"""Of a step's processor time is its own, whatever was measured."""
ALONE_WAIT_S, WAIT_S, POLL_S, AT_ONCE = 0.06, 0.3, 0.0003, 10
"""How long a step waits for its turn alone, and for another's; beyond that a host is stopped: turns are given up."""
MOST_MISSED = 3
"""Turns alone that did not come about, in a row: none is asked for any more."""
_PLACE = struct.Struct("qq")
"""Of a host: when its step began, 0 where none runs, and what all before took, nanoseconds."""


def make_turns(folder: Path, hosts: int) -> None:
    """Makes the folder, which belongs to whoever emulates."""
    folder.mkdir(mode=0o700)
    (folder / "busy").write_bytes(bytes(_PLACE.size * hosts))


def told(folder: Path, number: int) -> str:
    """The value of the variable for a host."""
    return f"{number}:{folder}"


def steps_alone(environ: Mapping[str, str]) -> StepsAlone | None:
    """Of this host; None: it is not emulated, or its steps are as they are."""
    if not environ.get(VARIABLE):
        return None
    number, _, folder = environ[VARIABLE].partition(":")
    return StepsAlone(Path(folder), int(number))


@dataclass
class _Kind:
    """Steps of one size."""

    before: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_BEFORE))
    """Processor seconds of the last ones that were not alone, and how many other hosts computed meanwhile."""
    shares: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_SHARES))
    """What part of a step's processor time one other host is the reason of, by each step that was alone."""
    count: int = 0

    @property
    def cpu_s(self) -> float:
        return median(cpu_s for cpu_s, _ in self.before)

    @property
    def overlap(self) -> float:
        return median(overlap for _, overlap in self.before)

    def due(self) -> bool:
        self.count += 1
        if len(self.before) < LEAST_BEFORE or self.count % (SOON if len(self.shares) < FIRST_SHARES else SELDOM):
            return False
        return self.overlap > LEAST_OVERLAP and self.cpu_s < LONGEST_S


class StepsAlone:
    """Called by one thread at a time; the other hosts' processes have the same folder."""

    def __init__(self, folder: Path, number: int) -> None:
        """`number`: this host's, from 0."""
        self._gate: IO[bytes] = (folder / "gate").open("ab")
        """Held by who waits for its turn alone, so that no other begins meanwhile."""
        self._computing: IO[bytes] = (folder / "computing").open("ab")
        """Shared by all whose step runs."""
        with (folder / "busy").open("r+b") as file:
            self._busy = mmap.mmap(file.fileno(), 0)
        self._own = number * _PLACE.size
        self._kinds: dict[Hashable, _Kind] = {}
        self._alone = self._given_up = False
        self._missed = 0
        self._begin_ns = self._others_ns = self._done_ns = 0
        self._set(0)

    def begin(self, kind: Hashable) -> None:
        """A step of this kind begins; waits while another is alone."""
        if self._given_up:
            return
        due = self._kinds.setdefault(kind, _Kind()).due() and self._missed < MOST_MISSED
        deadline_s = time.monotonic() + WAIT_S
        if not _locked(self._gate, fcntl.LOCK_EX, deadline_s):
            self._given_up = True
            return
        self._alone = due and _locked(self._computing, fcntl.LOCK_EX, time.monotonic() + ALONE_WAIT_S)
        if due:
            self._missed = 0 if self._alone else self._missed + 1
        if not self._alone and not _locked(self._computing, fcntl.LOCK_SH, deadline_s):
            self._given_up = True
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        if self._given_up:
            return
        self._begin_ns = time.monotonic_ns()
        self._others_ns = self._others(self._begin_ns)
        self._set(self._begin_ns)

    def end(self, kind: Hashable, cpu_s: float) -> float:
        """The step has ended; returns the processor seconds that it would have taken alone."""
        if self._given_up:
            return cpu_s
        now_ns = time.monotonic_ns()
        took_ns = max(1, now_ns - self._begin_ns)
        self._done_ns += took_ns
        self._set(0)
        fcntl.flock(self._computing, fcntl.LOCK_UN)
        overlap = max(0.0, (self._others(now_ns) - self._others_ns) / took_ns)
        known = self._kinds[kind]
        if self._alone:
            self._alone = False
            known.shares.append(max(0.0, 1 - cpu_s / known.cpu_s) / known.overlap)
            return cpu_s
        known.before.append((cpu_s, overlap))
        taken = overlap * median(known.shares) if known.shares else 0.0
        return cpu_s * max(LEAST_PART, 1 - taken)

    def _set(self, begin_ns: int) -> None:
        _PLACE.pack_into(self._busy, self._own, begin_ns, self._done_ns)

    def _others(self, now_ns: int) -> int:
        """Nanoseconds that all other hosts have computed until now."""
        total_ns = 0
        for place in range(0, len(self._busy), _PLACE.size):
            if place != self._own:
                begin_ns, done_ns = _PLACE.unpack_from(self._busy, place)
                total_ns += done_ns + (max(0, now_ns - begin_ns) if begin_ns else 0)
        return total_ns


def _locked(file: IO[bytes], how: int, deadline_s: float) -> bool:
    """Whether the lock was had in time."""
    tries = 0
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
        else:
            return True
        tries += 1
        time.sleep(POLL_S if tries > AT_ONCE else 0)  # who begins holds the gate for microseconds
