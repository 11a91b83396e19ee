"""Single items that callers of a Pipeline submit; each result is a future's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

from edgelaunch.common.items import Entry, Item

__all__ = ["Singles"]

PREFIX = "single "
"""Of their names, so that no stream has one."""


class Singles:
    """Those that wait are in order; a future that is cancelled is forgotten at once, wherever its item is."""

    def __init__(self, changed: threading.Condition) -> None:
        """`changed`: guards it, and is told of an item."""
        self._changed = changed
        self._waiting: OrderedDict[str, Item] = OrderedDict()
        """By name: not fed yet."""
        self._futures: dict[str, Future[Any]] = {}
        """By name: without a result."""
        self._count = 0
        self._error: BaseException | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @staticmethod
    def owns(name: str) -> bool:
        return name.startswith(PREFIX)

    def submit(self, arrays: dict[str, Any]) -> Future[Any]:
        """Whoever cancels the future before its result is there frees the item's place."""
        future: Future[Any] = Future()
        with self._changed:
            error, name = self._error, f"{PREFIX}{self._count}"
            if error is None:
                self._waiting[name] = Item(Entry(index=self._count, stream=name), arrays)
                self._futures[name] = future
                self._count += 1
                self._changed.notify_all()
        if error is not None:
            future.set_exception(error)
        else:
            future.add_done_callback(lambda done: self._forget(name) if done.cancelled() else None)
        return future

    def take(self) -> Item | None:
        """The next one to be fed, while the lock is held; None where there is none."""
        return self._waiting.popitem(last=False)[1] if self._waiting else None

    def give(self, name: str, result: Any) -> None:
        with self._changed:
            future = self._futures.pop(name, None)
            self._changed.notify_all()
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """All that have no result, and all that come."""
        with self._changed:
            self._error = error
            futures = list(self._futures.values())
            self._futures.clear()
            self._waiting.clear()
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _forget(self, name: str) -> None:
        """Whoever removes the name tells those that wait for the future."""
        with self._changed:
            future = self._futures.pop(name, None)
            self._waiting.pop(name, None)
        if future is not None:
            future.set_running_or_notify_cancel()
