"""Statistics and events of a pipeline that runs in an application. Imports no torch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompile.contract.plan import Plan
from edgecompile.contract.run_record import Percentiles
from edgelaunch.common.failures import link_name, rank_name
from edgelaunch.control.core.run_events import (
    EpochBegan,
    EpochEnded,
    LinkCut,
    LinkHealed,
    RankJoined,
    RankLost,
    ResultsAgain,
    RunEvent,
)
from edgelaunch.control.wording import describe

if TYPE_CHECKING:
    from edgelaunch.control.supervisor import Supervisor

__all__ = ["Event", "Rate", "Statistics", "events_of"]

RATE_S = 10.0
SAMPLES_PER_S = 2.0


class Rate:
    """Results a second over the last ten seconds. One thread adds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=round(RATE_S * SAMPLES_PER_S) + 1)

    def add(self, num_items: int, now: float) -> None:
        if not self._seen or now - self._seen[-1][0] >= 1 / SAMPLES_PER_S:
            self._seen.append((now, num_items))

    def per_s(self, num_items: int, now: float) -> float | None:
        """None where less than half a second was seen."""
        first = next(iter(self._seen), None)
        if first is None or now - first[0] < 1 / SAMPLES_PER_S:
            return None
        return (num_items - first[1]) / (now - first[0])


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a pipeline has counted up to now."""

    num_items: int
    """Whose results came; rows of messages where text is generated."""
    num_in_flight: int
    """Items that were fed and have no result yet; texts that have a slot."""
    num_waiting: int
    """Items that were submitted or drawn, and not fed yet."""
    items_per_s: float | None
    """Over the last ten seconds; None before there is a rate."""
    predicted_items_per_s: float
    """By the plan as it runs now."""
    latency: Percentiles | None
    """From feeding an item to its result; None where there were none."""
    num_epochs: int
    """How often the ranks were connected."""
    num_ranks: int
    """That are present, rank 0 included."""
    busy: Mapping[str, float | None]
    """The share of the last ten seconds that each host computed, by its name; None where nothing is known yet."""
    received_bytes_per_s: Mapping[str, float | None]
    """Likewise, what it received from other ranks."""

    @staticmethod
    def of(runner: Supervisor, rate: Rate, num_waiting: int) -> Statistics:
        counters, overview = runner.counters(), runner.overview()
        assert runner.run is not None
        assert counters.num_items is not None
        latencies, hosts = runner.run.collector.latencies, overview.plan.hosts
        return Statistics(
            num_items=counters.num_items, num_in_flight=overview.num_in_flight, num_waiting=num_waiting,
            items_per_s=rate.per_s(counters.num_items, time.monotonic()),
            predicted_items_per_s=counters.predicted_items_per_s,
            latency=latencies.summary() if latencies.count else None,
            num_epochs=counters.epoch, num_ranks=counters.num_ranks,
            busy={hosts[rank].name: pace.busy for rank, pace in overview.paces.items()},
            received_bytes_per_s={hosts[rank].name: pace.received_bytes_per_s for rank, pace in overview.paces.items()},
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a pipeline."""

    at: float
    """When, seconds since 1970."""
    kind: str
    """`rank-joined`, `rank-lost`, `link-cut`, `link-healed`, `epoch-began`, `epoch-ended`, `results-again`."""
    text: str
    """In words."""
    rank: int | None = None


_KINDS: dict[type[RunEvent], str] = {
    RankJoined: "rank-joined", RankLost: "rank-lost", LinkCut: "link-cut", LinkHealed: "link-healed",
    EpochBegan: "epoch-began", EpochEnded: "epoch-ended", ResultsAgain: "results-again",
}  # fmt: skip


def events_of(plan: Plan, events: Iterable[RunEvent], most: int | None = None) -> tuple[Event, ...]:
    """`most`: of the last ones; None: all."""
    offset = time.time() - time.monotonic()
    known = [event for event in tuple(events) if type(event) in _KINDS]
    return tuple(
        Event(at=event.at + offset, kind=_KINDS[type(event)], text=describe(plan, event) or _words(plan, event),
              rank=_rank(event))
        for event in (known if most is None else known[-most:])
    )  # fmt: skip


def _rank(event: RunEvent) -> int | None:
    if isinstance(event, RankLost):
        return event.loss.rank
    return event.rank if isinstance(event, RankJoined) else None


def _words(plan: Plan, event: RunEvent) -> str:
    """Of what is not worth a line of a log."""
    if isinstance(event, RankJoined):
        return f"{rank_name(plan, event.rank)} joined"
    if isinstance(event, LinkHealed):
        return f"{link_name(plan, event.ranks)} is no longer watched: one of its ends is gone"
    if isinstance(event, EpochEnded):
        return f"epoch {event.number} ended early"
    assert isinstance(event, EpochBegan)
    return f"epoch {event.number} began"
