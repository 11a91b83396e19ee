"""Keeps the microbatches without a result, in order and across epochs, so that none is lost."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from time import perf_counter_ns

from edgelaunch.common.failures import Abandoned
from edgelaunch.common.items import Item
from edgelaunch.common.varying import Extents, Sizes
from edgelaunch.pipeline.window import Waiting, Window

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
    sizes: Sizes = ()
    extents: tuple[Extents, ...] = ()
    """Each item's own, where any vary."""
    places: tuple[int, ...] = ()
    """Each item's in the stream, where a message may hold others than the next ones."""


class Flight:
    """Between three threads of the data host: one draws items, one sends them, one takes the results.

    The one that draws lives as long as the process, since it may wait in the user's own iterator; the others live one
    epoch and get Abandoned when theirs is over. A microbatch is under way from the moment that it is taken to be
    sent. Its inputs are those that were drawn, so nothing is copied to keep them; never more are under way than the
    pipeline has buffers.

    Where messages vary in size, the one that draws puts items, not microbatches, and those of a microbatch are chosen
    from the window of items when it is taken.
    """

    def __init__(self, window: Window | None = None) -> None:
        self._window = window
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

    def offer(self, waiting: Waiting) -> None:
        """Puts an item into the window; waits while that is full."""
        window = self._the_window
        with self._changed:
            self._changed.wait_for(lambda: window.has_room)
            window.add(waiting)
            if len(window) == 1 or not window.has_room:
                self._changed.notify_all()

    def mark(self) -> None:
        """The items in the window go at once, and without those that come."""
        with self._changed:
            self._the_window.mark()
            self._changed.notify_all()

    @property
    def _the_window(self) -> Window:
        assert self._window is not None, "messages do not vary in size"
        return self._window

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
            if self._window is not None:
                self._take_in(self._window, epoch)
            self._changed.wait_for(lambda: self._drawn or self._ended or self._epoch != epoch)
            self._check(epoch)
            if not self._drawn:
                return None
            batch = self._drawn.popleft()
            self._under_way.append(batch)
            self._next = batch.number + 1
            self._changed.notify_all()
            return batch

    def _take_in(self, window: Window, epoch: int) -> None:
        """Waits until a microbatch is there, and makes it; makes none where the items have ended."""
        while self._epoch == epoch and (window or not self._ended):
            ready_ns, now_ns = window.ready_ns(ended=self._ended), perf_counter_ns()
            if ready_ns is not None and ready_ns <= now_ns:
                self._drawn.append(_batch_of(self._next, window.take(), window))
                return
            self._changed.wait(None if ready_ns is None else (ready_ns - now_ns) / 1e9)

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

    def num_messages(self) -> int:
        """That are under way, or ready to be sent."""
        with self._changed:
            return len(self._under_way) + len(self._drawn)

    def empty(self) -> bool:
        with self._changed:
            return not self._under_way and not self._drawn and not self._window

    def _check(self, epoch: int) -> None:
        if self._epoch != epoch:
            raise Abandoned


def _batch_of(number: int, chosen: list[Waiting], window: Window) -> Batch:
    extents = tuple(item.extents for item in chosen)
    return Batch(
        number, items=[item.item for item in chosen], due_ns=[item.due_ns for item in chosen],
        drawn_ns=sum(item.drawn_ns for item in chosen), sizes=window.varying.sizes(extents), extents=extents,
        places=tuple(item.place for item in chosen),
    )  # fmt: skip
