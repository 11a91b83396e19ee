"""Deadlines of calls that wait in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Deadline"]


class Deadline:
    """Checked now and then while a call waits."""

    def __init__(self, timeout: float | None, check: Callable[[], None]) -> None:
        """`timeout`: seconds from now; None: never. `check`: raises where nothing is to be waited for."""
        self._timeout, self._check = timeout, check
        self._at = None if timeout is None else time.monotonic() + timeout

    def check(self) -> None:
        """Raises TimeoutError once it has passed."""
        self._check()
        if self._at is not None and time.monotonic() >= self._at:
            raise TimeoutError(f"no result within {self._timeout:g} s")

    def wait_s(self, most_s: float) -> float:
        """How long to wait until the next check."""
        return most_s if self._at is None else max(0.0, min(most_s, self._at - time.monotonic()))
