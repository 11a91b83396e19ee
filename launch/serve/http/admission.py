"""Places for what is under way and waits, and memory for bodies: bounded, so that a burst is refused and not kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgelaunch.serve.http.api_error import ApiError

__all__ = ["Admission"]

MOST_RETRY_S = 60


class Admission:
    """Used by the event loop's thread alone."""

    def __init__(self, *, most: int, most_bytes: int, rate_per_s: Callable[[], float]) -> None:
        """
        Args:
            most: items, or texts, that may be under way and wait.
            most_bytes: of bodies that are held.
            rate_per_s: about how many places come free each second.
        """
        self.most, self._most_bytes, self._rate_per_s = most, most_bytes, rate_per_s
        self.taken = 0
        """Places."""
        self._num_bytes = 0

    def check_room(self) -> None:
        """Before a body is read. Raises ApiError 429."""
        if self.taken >= self.most:
            raise self._full()

    @contextmanager
    def places(self, count: int, what: str) -> Iterator[None]:
        """Holds so many. `what`: they are for. Raises ApiError: 429, or 400 where there are never so many."""
        if count > self.most:
            raise ApiError(400, f"{count} {what} in one request: at most {self.most} (--max-queue)")
        if self.taken + count > self.most:
            raise self._full()
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count

    @contextmanager
    def memory(self) -> Iterator[Callable[[int], None]]:
        """Holds what it is told of. Raises ApiError 429."""
        held = 0

        def hold(num_bytes: int) -> None:
            nonlocal held
            if self._num_bytes + num_bytes > self._most_bytes:
                raise self._full()
            self._num_bytes += num_bytes
            held += num_bytes

        try:
            yield hold
        finally:
            self._num_bytes -= held

    def _full(self) -> ApiError:
        rate = self._rate_per_s()
        seconds = min(MOST_RETRY_S, max(1, math.ceil(self.taken / rate))) if rate > 0 else MOST_RETRY_S
        return ApiError(429, f"the queue is full ({self.taken} of {self.most} places): try again in {seconds} s",
                        code="queue_full", headers={"Retry-After": str(seconds)})  # fmt: skip
