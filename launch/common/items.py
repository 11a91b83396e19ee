"""The items of a stream: one item with its name and label, and the marker between two streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

__all__ = ["DEFAULT_ITEMS", "FLUSH", "STDIN", "Entry", "Flush", "Item", "OnBadItem", "Results", "Source", "WhenFull"]


STDIN = "-"
"""The input's name that means standard input."""
DEFAULT_ITEMS = 64
"""Synthetic items, where the command does not say how many."""


class WhenFull(Enum):
    """What a live source may do while the pipeline is full."""

    WAIT = "wait"
    DROP_OLDEST = "drop-oldest"


class OnBadItem(Enum):
    """What may become of an item that cannot be read."""

    STOP = "stop"
    GAP = "gap"


@dataclass(frozen=True)
class Entry:
    """What a result is told with: the item's number in its stream, and what is known of it."""

    index: int
    stream: str = "items"
    """`golden` items are compared, `items` are results."""
    name: str | None = None
    """A file's name or a sentence."""
    label: int | None = None
    error: str | None = None
    """Why the item could not be read: its result means nothing, and leaves a gap."""


@dataclass(frozen=True)
class Item:
    """One item without batch dimension: a numpy array or a tensor for each input of the model."""

    entry: Entry
    arrays: Mapping[str, Any] = field(repr=False)
    due_ns: int | None = None
    """When a live source wanted it done, time.perf_counter_ns(); None: when it is fed."""


class Flush:
    """After this mark a partly filled microbatch is sent at once."""


FLUSH = Flush()


@dataclass(frozen=True, kw_only=True)
class Source:
    """Items to feed. `num_items` is None where it is unknown before the end."""

    items: Iterator[Item | Flush]
    num_items: int | None
    what: str
    """In words: `200 sentences of queries.txt`."""
    labelled: bool = False
    again: Callable[[], Iterator[Item | Flush]] | None = None
    """The same items from the first one on; None where they do not come again."""


class Results(Protocol):
    """Takes each item's result, in order, in one thread."""

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        """`outputs`: tensors without batch dimension, views that are good until this returns."""

    def finish(self) -> None:
        """The stream is complete."""
