"""Deadlines of calls that wait in a thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from numbers import Real

from edgecompile.contract.errors import UserError

__all__ = ["Deadline", "checked_timeout"]


def checked_timeout(timeout: object) -> float | None:
    """Seconds; None: never. Zero and less have passed already. Raises UserError where it is not a number."""
    if timeout is None:
        return None
    try:
        seconds = float(timeout) if isinstance(timeout, Real) and not isinstance(timeout, bool) else math.nan
    except OverflowError:
        seconds = math.nan
    if math.isnan(seconds):
        raise UserError(f"invalid value {timeout!r} for timeout: expected a number of seconds, or None")
    return seconds


class Deadline:
    """Checked now and then while a call waits."""

    def __init__(self, timeout: float | None, check: Callable[[], None]) -> None:
        """`timeout`: seconds from now; None: never. `check`: raises where nothing is to be waited for.

        Raises:
            UserError: the timeout is not a number.
        """
        self._timeout, self._check = checked_timeout(timeout), check
        self._at = None if self._timeout is None else time.monotonic() + self._timeout

    def check(self) -> None:
        """Raises TimeoutError once it has passed."""
        self._check()
        if self._at is not None and time.monotonic() >= self._at:
            raise TimeoutError(f"no result within {self._timeout:g} s")

    def wait_s(self, most_s: float) -> float:
        """How long to wait until the next check."""
        return most_s if self._at is None else max(0.0, min(most_s, self._at - time.monotonic()))
