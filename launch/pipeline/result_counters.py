"""The pipeline's two ends, as the rest of the data host's process sees them, and what they count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgelaunch.transport.counters import ItemRates, Latencies, Series
from edgelaunch.transport.links import Consumer, Producer

__all__ = ["CollectingEnd", "Ends", "FeedingEnd"]


class ResultCounters:
    def __init__(self) -> None:
        self.busy = Series()
        """Writing one message's results, nanoseconds."""
        self.arrivals = Series()
        """Time between two messages' results, nanoseconds."""
        self.latencies = Latencies()
        """From when an item was due, or drawn, to its message's result; golden items are not counted."""
        self.rates = ItemRates()
        self.first_ns = self.last_ns = 0
        self.num_items = 0
        self._paused = False
        self._pauses_ns: list[int] = []

    def pause(self) -> None:
        """An epoch ended early: the time to the next result is a pause, and no arrival in steady state."""
        self._paused = self.num_items > 0

    def take_pauses(self) -> list[int]:
        """Those since the last call, nanoseconds from the last result before to the first after."""
        pauses, self._pauses_ns = self._pauses_ns, []
        return pauses

    def mark(self, now_ns: int) -> None:
        """A message's results came."""
        if self._paused:
            self._paused = False
            self._pauses_ns.append(now_ns - self.last_ns)
        elif self.first_ns:
            self.arrivals.add(now_ns - self.last_ns)
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns


class FeedingEnd(Protocol):
    """Puts messages into the pipeline."""

    busy: Series
    begin_ns: int
    useful: int
    computed: int

    def send(self, epoch: int, link: Producer, first: int) -> None: ...


class CollectingEnd(ResultCounters):
    """Takes their results."""

    def collect(self, epoch: int, link: Consumer) -> None:
        """In a thread of the epoch's: until the stream ends."""
        raise NotImplementedError


class Ends(Protocol):
    """The data host's ends of the pipeline, which outlive an epoch."""

    @property
    def feeder(self) -> FeedingEnd: ...

    @property
    def collector(self) -> CollectingEnd: ...

    def draw(self, may_begin: Callable[[], bool]) -> None:
        """In a thread that lives as long as the process; `may_begin` waits, False: the run is over before."""

    def begin(self, number: int) -> int:
        """An epoch begins; returns the sequence number of its first message."""

    def halt(self) -> None:
        """The epoch ended early: nothing is sent and no result taken until the next one begins."""

    @property
    def num_items(self) -> int:
        """Whose results are there."""

    def num_in_flight(self) -> int:
        """Items that were fed and have no result yet."""

    def abandon(self) -> None: ...
