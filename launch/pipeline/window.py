"""Items that wait to share a message, and the choice of those that do: like extents, so that little is padding."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecompile.contract.plan import Plan
from edgelaunch.common.items import Item
from edgelaunch.common.varying import Extents, Varying

__all__ = ["Limits", "Waiting", "Window", "choose"]

MESSAGE_ITEMS, MESSAGE_SHARE = 2.0, 1 / 8
"""What a message costs beyond its positions, counted in items of the mean extents; that share of a microbatch, where it
is more: who asks for large ones has a cost that many items must bear. Fewer items share a message where more of them
would be mostly padding."""
SPAN = 2
"""So many windows of items are drawn at most from the oldest that waits on: what came early is kept for it."""


@dataclass(frozen=True)
class Limits:
    """Of one message."""

    microbatch: int
    positions: int | None
    """Items times their largest extents; a single item always goes."""
    may_differ: tuple[bool, ...]
    """For each extent whether items that differ in it may share a message."""


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


def choose(items: Sequence[Extents], limits: Limits) -> list[int]:
    """Which of the waiting items share the next message: the first, which is the oldest, and others like it.

    Items are looked at in the order of their extents. Of all runs of neighbours with the oldest in them, the one whose
    message costs the least for what is useful in it.
    """
    fixed = [axis for axis, may in enumerate(limits.may_differ) if not may]
    alike: Sequence[int] = range(len(items))
    if fixed:
        alike = [place for place in alike if all(items[place][axis] == items[0][axis] for axis in fixed)]
    order = sorted(alike, key=lambda place: (math.prod(items[place]), items[place], place))
    middle = order.index(0)
    low, high = max(0, middle - limits.microbatch + 1), min(len(order), middle + limits.microbatch)
    near = order[low:high]
    middle -= low
    extents = np.array([items[place] for place in near], dtype=np.int64).reshape(len(near), len(items[0]))
    # the runs from `middle - row` to `middle + column`
    below = np.maximum.accumulate(extents[middle::-1], axis=0)[:, None, :]
    above = np.maximum.accumulate(extents[middle:], axis=0)[None, :, :]
    own = extents.prod(axis=1, dtype=np.int64)
    counts = np.arange(len(below))[:, None] + np.arange(above.shape[1])[None, :] + 1
    computed = counts * np.maximum(below, above).prod(axis=2, dtype=np.int64)
    useful = np.cumsum(own[middle::-1])[:, None] + np.cumsum(own[middle:])[None, :] - own[middle]
    allowed = counts <= limits.microbatch
    if limits.positions is not None:
        allowed &= computed <= limits.positions
    allowed[0, 0] = True
    message = max(MESSAGE_ITEMS, MESSAGE_SHARE * limits.microbatch) * own.mean()
    costs = np.where(allowed, (computed + message) / useful, np.inf)
    row, column = np.unravel_index(int(costs.argmin()), costs.shape)
    return sorted(near[middle - int(row) : middle + int(column) + 1])


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
