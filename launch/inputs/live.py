"""Live sources: items arrive at a rate or from a sender, and wait or are dropped when the pipeline is full."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_items_rate
from edgelaunch.common.items import FLUSH, Entry, Flush, Item, Results, Source

if TYPE_CHECKING:
    from edgelaunch.pipeline.result_counters import Ends

__all__ = ["Live"]

IDLE_S = 0.2
"""So long a partly filled microbatch waits for the next item; then it is sent as it is."""


class Live:
    """Stands between a source and the feeder: a thread of its own takes the items in when they are due.

    Up to one microbatch waits. While that many do, `wait` makes the source wait, and `drop-oldest` drops the item that
    has waited longest, so that what is computed is fresh; then no more microbatches are under way than keep every stage
    and every transfer busy.
    """

    def __init__(
        self, plan: Plan, source: Source, results: Results, *, rate_per_s: float | None, drop_oldest: bool
    ) -> None:
        """`rate_per_s`: items a second, whether or not results keep up; None: as they come."""
        self._given, self._next_results = source, results
        self._rate_per_s, self._drop_oldest = rate_per_s, drop_oldest
        self._capacity = plan.model.microbatch
        self._max_under_way = (2 * len(plan.stages) + 1) * plan.model.microbatch if drop_oldest else None
        self._waiting: deque[Item | Flush] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._num_under_way = 0
        self.num_taken = 0
        """Items that the source gave, golden ones not counted."""
        self.num_dropped = 0
        self.results: Results = self
        self.source = Source(items=self._items(), num_items=source.num_items, what=source.what,
                             labelled=source.labelled)  # fmt: skip

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        """Passes a result on: to the pipeline, this object is the results."""
        self._next_results.add(entry, outputs)
        with self._changed:
            self._num_under_way -= 1
            self._changed.notify_all()

    def finish(self) -> None:
        self._next_results.finish()

    def ends(self, plan: Plan) -> Ends:
        """Of the pipeline, with this between."""
        from edgelaunch.pipeline.feed import StreamEnds

        return StreamEnds(plan, self.source, self.results)

    def report(self) -> str:
        """The counts of items, in one line."""
        rate = format_items_rate(self._rate_per_s) if self._rate_per_s is not None else "items as they came"
        done = self.num_taken - self.num_dropped
        policy = f", {self.num_dropped} dropped" if self._drop_oldest else ""
        return f"live: {rate}: {self.num_taken} items, {done} done{policy}"

    # --- the thread that takes items in ------------------------------------------------------------------------------

    def _take_in(self) -> None:
        try:
            begin_ns: int | None = None
            for value in self._given.items:
                if isinstance(value, Flush) or value.entry.stream == "golden":
                    self._offer(value, droppable=False)
                    continue
                now_ns = perf_counter_ns()
                begin_ns = now_ns if begin_ns is None else begin_ns
                due_ns = now_ns
                if self._rate_per_s is not None:
                    due_ns = begin_ns + round(self.num_taken / self._rate_per_s * 1e9)
                    time.sleep(max(0, due_ns - now_ns) / 1e9)
                self.num_taken += 1
                self._offer(Item(value.entry, value.arrays, due_ns), droppable=self._drop_oldest)
        except BaseException as error:  # the feeder's thread raises it where a source's errors belong
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _offer(self, value: Item | Flush, *, droppable: bool) -> None:
        with self._changed:
            if droppable and len(self._waiting) >= self._capacity and self._drop_one():
                self.num_dropped += 1
            while len(self._waiting) >= self._capacity:
                self._changed.wait()
            self._waiting.append(value)
            self._changed.notify_all()

    def _drop_one(self) -> bool:
        """Drops the item that has waited longest; golden items and flushes stay."""
        for index, value in enumerate(self._waiting):
            if isinstance(value, Item) and value.due_ns is not None:
                del self._waiting[index]
                return True
        return False

    # --- the feeder's thread -----------------------------------------------------------------------------------------

    def _items(self) -> Iterator[Item | Flush]:
        threading.Thread(target=self._take_in, name="live source", daemon=True).start()
        while (value := self._next()) is not None:
            yield value
        if self._error is not None:
            raise self._error

    def _next(self) -> Item | Flush | None:
        """The next item; a flush where none comes for a while; None at the end."""
        with self._changed:
            if not self._changed.wait_for(self._ready, IDLE_S):
                return FLUSH
            if not self._waiting:
                return None
            value = self._waiting.popleft()
            self._num_under_way += isinstance(value, Item)
            self._changed.notify_all()
            return value

    def _ready(self) -> bool:
        if not self._waiting:
            return self._ended
        return self._max_under_way is None or self._num_under_way < self._max_under_way
