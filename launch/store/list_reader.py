"""Reads what any rank appended to a list of the store, each text once and in order. Imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

__all__ = ["ListReader"]

MOST_AT_ONCE = 1000
"""A stranger may announce any number."""


class Lists(Protocol):
    """The part of a board that it reads."""

    def num_appended(self, name: str) -> int: ...
    def take(self, name: str, number: int) -> str | None: ...


class ListReader:
    """Used by one thread."""

    def __init__(self, board: Lists, name: str, patience_s: float) -> None:
        """`patience_s`: so long a text may be announced and not there; then it is passed over."""
        self._board, self._name, self._patience_s = board, name, patience_s
        self._num_read = 0
        self._announced: deque[tuple[int, float]] = deque()
        """How many texts were announced, and since when that is known."""

    def new(self, now: float) -> Iterator[str]:
        """Those that are there; "" for one that never came, or that a process without the secret wrote."""
        announced = self._board.num_appended(self._name)
        if announced > (self._announced[-1][0] if self._announced else self._num_read):
            self._announced.append((announced, now))
        for _ in range(min(announced - self._num_read, MOST_AT_ONCE)):
            text = self._board.take(self._name, self._num_read + 1)
            # several that never come are waited for at the same time: each process that ends may leave one behind
            if text is None and now - self._announced[0][1] < self._patience_s:
                return
            self._num_read += 1
            if self._num_read == self._announced[0][0]:
                self._announced.popleft()
            yield text or ""
