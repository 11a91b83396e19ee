"""Tells how busy each rank is during a run, from its heartbeats. Imports no torch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from edgecompile.contract.plan import Plan
from edgelaunch.control.core.membership import Load

__all__ = ["Counters", "Load", "Overview", "Pace"]

BEATS_SEEN = 11


@dataclass
class Pace:
    """Over a rank's last beats, about ten seconds."""

    _seen: deque[Load] = field(default_factory=lambda: deque(maxlen=BEATS_SEEN))

    def add(self, load: Load) -> None:
        if self._seen and load.at_ns <= self._seen[-1].at_ns:
            if load.at_ns == self._seen[-1].at_ns:
                return
            self._seen.clear()  # another process has the rank now, on another clock
        self._seen.append(load)

    @property
    def busy(self) -> float | None:
        """The share of its time that it computed, 0 to 1; None where nothing is known yet."""
        elapsed_ns = self._elapsed_ns()
        if not elapsed_ns:
            return None
        return max(0.0, min(1.0, (self._seen[-1].compute_ns - self._seen[0].compute_ns) / elapsed_ns))

    @property
    def received_bytes_per_s(self) -> float | None:
        elapsed_ns = self._elapsed_ns()
        if not elapsed_ns:
            return None
        return max(0.0, (self._seen[-1].received_bytes - self._seen[0].received_bytes) / elapsed_ns * 1e9)

    def _elapsed_ns(self) -> int:
        return self._seen[-1].at_ns - self._seen[0].at_ns if self._seen else 0


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Rank 0's view of the run."""

    plan: Plan
    """As it runs: with a contingency's stages where a host is missing."""
    paces: dict[int, Pace]
    """Of the ranks that are there."""
    num_in_flight: int
    """Items that were fed and have no result yet."""


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a process has counted up to now."""

    rank: int
    host: str
    epoch: int
    num_microbatches: int
    stage_ns: dict[str, int]
    """Where its stages' time went, by part."""
    received_bytes: int
    num_items: int | None
    """Whose results came; None but on rank 0."""
    num_ranks: int
    predicted_items_per_s: float
