"""The state of a core, fed with events by several threads: one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Machine"]

S = TypeVar("S")
E = TypeVar("E")
A = TypeVar("A")


class Machine(Generic[S, E, A]):
    """Each event's actions are carried out by the thread that fed it."""

    def __init__(self, state: S, step: Callable[[S, E], tuple[S, tuple[A, ...]]]) -> None:
        self._state, self._step = state, step
        self._lock = threading.Lock()

    @property
    def state(self) -> S:
        """As of now; it does not change any more."""
        return self._state

    def feed(self, event: E) -> tuple[A, ...]:
        with self._lock:
            self._state, actions = self._step(self._state, event)
        return actions
