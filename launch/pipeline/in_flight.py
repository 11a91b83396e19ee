"""Keeps the microbatches without a result, in order and across epochs, so that none is lost."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from edgelaunch.common.failures import Abandoned
from edgelaunch.common.items import Item

__all__ = ["Batch", "Flight"]


@dataclass
class Batch:
    """One microbatch's items, which hold its inputs, until its result is there."""

    number: int
    """Counted over the whole stream: the sequence number of its messages in every epoch."""
    items: list[Item] = field(default_factory=list)
    due_ns: list[int] = field(default_factory=list)
    """When each item was due, or drawn; time.perf_counter_ns()."""
    drawn_ns: int = 0
    """How long it took to draw and prepare its items, nanoseconds."""


class Flight:
    """Between three threads of the data host: one draws items, one sends them, one takes the results.

    The one that draws lives as long as the process, since it may wait in the user's own iterator; the others live one
    epoch and get Abandoned when theirs is over. A microbatch is under way from the moment that it is taken to be
    sent. Its inputs are those that were drawn, so nothing is copied to keep them; never more are under way than the
    pipeline has buffers.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._drawn: deque[Batch] = deque()
        self._under_way: deque[Batch] = deque()
        self._ended = False
        self._epoch = 0
        self._next = 0

    def switch(self, epoch: int) -> int:
        """Ends the epoch before: nothing more is sent and no result taken for it. 0: no epoch runs.

        Returns the sequence number that the next message has.
        """
        with self._changed:
            self._epoch = epoch
            self._changed.notify_all()
            return self._under_way[0].number if self._under_way else self._next

    # --- the thread that draws ---------------------------------------------------------------------------------------

    def put(self, batch: Batch) -> None:
        """Waits while there is one that has not been taken."""
        with self._changed:
            self._changed.wait_for(lambda: not self._drawn)
            self._drawn.append(batch)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more is drawn."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    # --- an epoch's threads --------------------------------------------------------------------------------------

    def under_way(self, epoch: int) -> list[Batch]:
        """What was sent in earlier epochs and has no result: to be sent again."""
        with self._changed:
            self._check(epoch)
            return list(self._under_way)

    def take(self, epoch: int) -> Batch | None:
        """The next one to send, which is under way from now on; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._drawn or self._ended or self._epoch != epoch)
            self._check(epoch)
            if not self._drawn:
                return None
            batch = self._drawn.popleft()
            self._under_way.append(batch)
            self._next = batch.number + 1
            self._changed.notify_all()
            return batch

    def arrive(self, epoch: int, number: int) -> Batch:
        """The microbatch whose result came; it is no longer under way, and no other epoch gets it."""
        with self._changed:
            self._check(epoch)
            assert self._under_way, f"a result came for message {number}, which was never sent"
            first = self._under_way.popleft()
            assert first.number == number, f"the result of message {number} came in place of {first.number}"
            return first

    def num_items(self) -> int:
        """That are under way."""
        with self._changed:
            return sum(len(batch.items) for batch in self._under_way)

    def empty(self) -> bool:
        with self._changed:
            return not self._under_way and not self._drawn

    def _check(self, epoch: int) -> None:
        if self._epoch != epoch:
            raise Abandoned
