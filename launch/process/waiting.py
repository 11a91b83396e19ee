"""Reports which ranks this one is waiting for, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Waiting"]

FIRST_S = (3.0, 10.0, 20.0, 30.0, 60.0)
EVERY_S = 60.0
"""After the first lines."""


class Waiting:
    """Used by one thread at a time."""

    def __init__(self, log: Callable[[str], None] = lambda text: None) -> None:
        self._log = log
        self._since: float | None = None
        self._next_s = FIRST_S[0]

    def tell(self, what: str, most_s: float | None = None, now: float | None = None) -> None:
        """Called again and again while it waits: a line after 3, 10, 20, 30 and 60 s, then every minute.

        Args:
            what: to follow "waiting for".
            most_s: after so long it will give up.
            now: on the monotonic clock.
        """
        now = time.monotonic() if now is None else now
        self._since = now if self._since is None else self._since
        waited_s = now - self._since
        if waited_s < self._next_s:
            return
        self._next_s = next((step_s for step_s in FIRST_S if step_s > waited_s), waited_s + EVERY_S)
        most = f" of {most_s:g} s" if most_s is not None else " s"
        self._log(f"waiting for {what} ({waited_s:.0f}{most})")

    def over(self) -> None:
        """What it waited for is there."""
        self._since, self._next_s = None, FIRST_S[0]
