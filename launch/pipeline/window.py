"""Items that wait to share a message."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from edgecompile.contract.plan import Plan
from edgecompile.execution.batching import Extents, Limits, choose
from edgelaunch.common.items import Item
from edgelaunch.common.varying import Varying

__all__ = ["Waiting", "Window"]

SPAN = 2
"""So many windows of items are drawn at most from the oldest that waits on: what came early is kept for it."""


@dataclass(frozen=True)
class Waiting:
    """An item that was drawn and is not under way."""

    item: Item
    place: int
    """Counted over the whole stream: results are handed on in this order."""
    extents: Extents
    due_ns: int
    """As of Batch."""
    since_ns: int
    """Waits since then, time.perf_counter_ns()."""
    drawn_ns: int
    """How long it took to draw it."""


class Window:
    """The waiting items, oldest first. Whoever uses it sees to it that one thread does at a time."""

    def __init__(self, plan: Plan) -> None:
        self.varying = Varying(plan)
        microbatch, runtime = plan.model.microbatch, plan.runtime
        self._limits = Limits(microbatch, runtime.batch_tokens, self.varying.may_differ)
        self._capacity, self._max_wait_ns = runtime.window * microbatch, round(runtime.max_wait_s * 1e9)
        self._items: list[Waiting] = []
        self._marks: deque[int] = deque()
        """Places of items before which nothing may wait for them, nor share a message with them."""
        self.next_place = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def has_room(self) -> bool:
        if not self._items:
            return True
        return len(self._items) < self._capacity and self.next_place - self._items[0].place < SPAN * self._capacity

    def add(self, item: Waiting) -> None:
        assert item.place == self.next_place
        self._items.append(item)
        self.next_place += 1

    def mark(self) -> None:
        """What is there goes at once, and without what comes."""
        if self._items and (not self._marks or self._marks[-1] != self.next_place):
            self._marks.append(self.next_place)

    def ready_ns(self, *, ended: bool) -> int | None:
        """When the next message may be taken, time.perf_counter_ns(), 0: at once; None: not as things are.

        `ended`: no more items come.
        """
        if not self._items:
            return None
        at_once = ended or self._marks or not self.has_room
        return 0 if at_once else self._items[0].since_ns + self._max_wait_ns

    def take(self) -> list[Waiting]:
        """The items of the next message, in their order."""
        there = self._items
        if self._marks:
            there = [item for item in there if item.place < self._marks[0]]
        chosen = [there[index] for index in choose([item.extents for item in there], self._limits)]
        places = {item.place for item in chosen}
        self._items = [item for item in self._items if item.place not in places]
        while self._marks and not (self._items and self._items[0].place < self._marks[0]):
            self._marks.popleft()
        return chosen
