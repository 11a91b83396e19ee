"""Tells how busy each rank and each link is during a run, from its heartbeats and figures. Imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgecompile.contract.plan import Plan
from edgecompile.contract.run_record import Percentiles
from edgelaunch.common.rank_figures import PARTS, LinkCount, RankFigures
from edgelaunch.control.core.membership import Load

__all__ = ["Counters", "LinkPace", "Load", "Overview", "Pace", "Rate"]

BEATS_SEEN = 11
LEAST_NS = 800_000_000
"""Between two that are kept: who asks often, or is told in between, sees no shorter time."""
RATE_S = 10.0
SAMPLES_PER_S = 2.0


class Rate:
    """Results a second over the last ten seconds. One thread adds, any asks."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=round(RATE_S * SAMPLES_PER_S) + 1)

    def add(self, num_items: int, now: float) -> None:
        if not self._seen or now - self._seen[-1][0] >= 1 / SAMPLES_PER_S:
            self._seen.append((now, num_items))

    def per_s(self, num_items: int, now: float) -> float | None:
        """None where less than half a second was seen."""
        try:
            first = self._seen[0]
        except IndexError:
            return None
        return (num_items - first[1]) / (now - first[0]) if now - first[0] >= 1 / SAMPLES_PER_S else None


@dataclass(frozen=True, kw_only=True)
class LinkPace:
    """What came in over one link in the last ten seconds."""

    bytes_per_s: float
    busy: float | None
    """The share of the time in which messages were coming in; None where they are one piece, which shows nothing."""


@dataclass
class Pace:
    """Over a rank's last beats, about ten seconds. One thread adds, any asks."""

    _seen: tuple[Load, ...] = ()
    _figures: tuple[RankFigures, ...] = ()

    def add(self, load: Load) -> None:
        if self._seen and load.at_ns < self._seen[-1].at_ns:  # another process has the rank now, on another clock
            self._seen = ()
        if self.is_due(load.at_ns):
            self._seen = (*self._seen, load)[-BEATS_SEEN:]

    def add_figures(self, figures: RankFigures) -> None:
        """Links are those of one epoch: what came before is forgotten where another one began."""
        seen = self._figures
        if seen and (figures.at_ns < seen[-1].at_ns or figures.epoch != seen[-1].epoch):
            seen = ()
        if not seen or figures.at_ns - seen[-1].at_ns >= LEAST_NS:
            self._figures = (*seen, figures)[-BEATS_SEEN:]

    def is_due(self, at_ns: int) -> bool:
        """Whether what is told at this time is kept."""
        return not self._seen or at_ns - self._seen[-1].at_ns >= LEAST_NS

    @property
    def busy(self) -> float | None:
        """The share of its time that it computed, 0 to 1; None where nothing is known yet."""
        first, last, elapsed_ns = self._ends()
        if not elapsed_ns:
            return None
        return max(0.0, min(1.0, (last.compute_ns - first.compute_ns) / elapsed_ns))

    @property
    def received_bytes_per_s(self) -> float | None:
        first, last, elapsed_ns = self._ends()
        if not elapsed_ns:
            return None
        return max(0.0, (last.received_bytes - first.received_bytes) / elapsed_ns * 1e9)

    @property
    def memory_bytes(self) -> int | None:
        """What no file backs, as of the last beat; None where it is unknown."""
        figures = self._figures
        return figures[-1].memory_bytes or None if figures else None

    @property
    def resident_bytes(self) -> int | None:
        figures = self._figures
        return figures[-1].resident_bytes or None if figures else None

    def shares(self) -> Mapping[str, float] | None:
        """Of the time of its stage's microbatches, what went where, by PARTS; None where none was computed."""
        figures = self._figures
        if len(figures) < 2:
            return None
        spent = [after - before for before, after in zip(figures[0].parts_ns, figures[-1].parts_ns, strict=True)]
        total = sum(spent)
        return dict(zip(PARTS, (part / total for part in spent), strict=True)) if total > 0 else None

    def link(self, boundary: int) -> LinkPace | None:
        """The link over a boundary, whose messages end here; None where nothing is known."""
        figures = self._figures
        if len(figures) < 2 or boundary not in figures[-1].received:
            return None
        elapsed_ns = figures[-1].at_ns - figures[0].at_ns
        after, before = figures[-1].received[boundary], figures[0].received.get(boundary, LinkCount())
        num_bytes, timed = after.num_bytes - before.num_bytes, after.timed_bytes - before.timed_bytes
        busy = (after.busy_ns - before.busy_ns) * num_bytes / timed / elapsed_ns if timed > 0 else None
        return LinkPace(bytes_per_s=max(0.0, num_bytes / elapsed_ns * 1e9),
                        busy=None if busy is None else max(0.0, min(1.0, busy)))  # fmt: skip

    def _ends(self) -> tuple[Load, Load, int]:
        seen = self._seen or (Load(),)
        return seen[0], seen[-1], seen[-1].at_ns - seen[0].at_ns


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Rank 0's view of the run."""

    plan: Plan
    """As it runs: with a contingency's stages where a host is missing."""
    paces: dict[int, Pace]
    """Of the ranks that are there."""
    num_in_flight: int
    """Items that were fed and have no result yet."""
    joining: frozenset[int] = frozenset()
    """Ranks that are there and load their shard, and those that ask for the place of a process that may be gone."""
    ready: bool = False
    """Whether items flow."""
    epoch: int = 0
    """How often the ranks were connected."""
    num_items: int = 0
    """Whose results came."""
    items_per_s: float | None = None
    """Over the last ten seconds."""
    latency: Percentiles | None = None
    num_lost: Mapping[int, int] = field(default_factory=dict)
    """How often each rank was lost, and got its place."""
    num_joined: Mapping[int, int] = field(default_factory=dict)
    feeding: float = 0.0
    writing: float = 0.0
    """The share of a message's period that the data host's two ends take."""


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a process has counted up to now."""

    rank: int
    host: str
    epoch: int
    num_microbatches: int
    stage_ns: dict[str, int] = field(default_factory=dict)
    """Where its stages' time went, by part."""
    received_bytes: int = 0
