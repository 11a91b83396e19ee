"""Chooses the items that share a message: for the feeder, and for the compiler's forecast. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Extents", "Limits", "choose", "messages_of"]

Extents = tuple[int, ...]
"""Of one item: without the batch, in the order of the plan's dimensions."""
MESSAGE_ITEMS, MESSAGE_SHARE = 2.0, 1 / 8
"""What a message costs beyond its positions, counted in items of the mean extents; that share of a microbatch, where it
is more: who asks for large ones has a cost that many items must bear. Fewer items share a message where more of them
would be mostly padding."""


@dataclass(frozen=True)
class Limits:
    """Of one message."""

    microbatch: int
    positions: int | None
    """Items times their largest extents; a single item always goes."""
    may_differ: tuple[bool, ...]
    """For each extent whether items that differ in it may share a message."""


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


def messages_of(items: Sequence[Extents], limits: Limits, capacity: int) -> list[list[Extents]]:
    """The messages that a stream of these items becomes, where so many of them are looked at at a time."""
    messages: list[list[Extents]] = []
    waiting: list[Extents] = []
    following = iter(items)
    while True:
        waiting += [item for _, item in zip(range(capacity - len(waiting)), following, strict=False)]
        if not waiting:
            return messages
        chosen = set(choose(waiting, limits))
        messages.append([item for place, item in enumerate(waiting) if place in chosen])
        waiting = [item for place, item in enumerate(waiting) if place not in chosen]
