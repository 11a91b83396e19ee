"""Keeps the last of what a job printed, with numbers to ask from. Imports no torch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from edgelaunch.boards.job_orders import JobNews
from edgelaunch.common.failures import Failure

__all__ = ["JobLog"]

MOST_ENTRIES, MOST_LETTERS = 20_000, 4 << 20
"""That are kept; whoever asks too late misses the older ones."""
AN_ANSWER = 256 << 10
LEFT_OUT = "edgelaunch: some lines of this board were printed faster than they were fetched, and are left out\n"


class JobLog:
    def __init__(self) -> None:
        self._entries: deque[tuple[str, str]] = deque()
        self._first = self._num_letters = 0
        self._end: JobNews | None = None
        self._changed = threading.Condition()

    def add(self, stream: str, text: str) -> None:
        """From any thread."""
        with self._changed:
            self._entries.append((stream, text))
            self._num_letters += len(text)
            while self._entries and (len(self._entries) > MOST_ENTRIES or self._num_letters > MOST_LETTERS):
                self._num_letters -= len(self._entries.popleft()[1])
                self._first += 1
            self._changed.notify_all()

    def end(self, failure: Failure | None, files: Sequence[str]) -> None:
        with self._changed:
            self._end = JobNews(next=0, ended=True, failure=failure, files=tuple(files))
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        return self._end is not None

    def news(self, since: int, wait_s: float) -> JobNews:
        """What came from entry `since` on; waits until there is some, or the job has ended."""
        deadline = time.monotonic() + wait_s
        with self._changed:
            while self._first + len(self._entries) <= since and self._end is None:
                if (left := deadline - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            missed = since < self._first
            begin = max(since, self._first) - self._first
            found, size = ([("err", LEFT_OUT)] if missed else []), 0
            number = begin
            while number < len(self._entries) and size < AN_ANSWER:
                found.append(self._entries[number])
                size += len(self._entries[number][1])
                number += 1
            whole = number >= len(self._entries)
            news = self._end if self._end is not None and whole else JobNews(next=0)
            return replace(news, next=self._first + max(number, 0), entries=tuple(found))
