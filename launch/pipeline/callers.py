"""The concurrent callers of a Pipeline, which share its microbatches; each reads its items in its own thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from edgelaunch.common.items import FLUSH, Entry, Flush, Item

__all__ = ["Stream", "Streams"]

IDLE_S = 0.01
"""How long a partly filled microbatch waits for the next item of any caller; then it is sent as it is."""

Arrays = dict[str, Any]


class Stream:
    """One call: its items on their way in, its results on their way out. All fields are guarded by `changed`."""

    def __init__(self, name: str, items: Iterable[Any], capacity: int, changed: threading.Condition) -> None:
        self.name, self.items, self.capacity = name, items, capacity
        self._changed = changed
        self.drawn: deque[Item] = deque()
        """Items that wait to be fed."""
        self.results: deque[Any] = deque()
        self.error: BaseException | None = None
        """What the caller's iterable raised, or an item that does not fit."""
        self.num_under_way = 0
        """Items that were drawn and whose result the caller has not taken."""
        self.num_awaited = 0
        """Of these, the ones that are fed or wait to be."""
        self.all_drawn = self.cancelled = False

    @property
    def ended(self) -> bool:
        """Nothing of it is left to feed or to come back."""
        return self.num_awaited == 0 and (self.all_drawn or self.cancelled)

    def take(self, check: Callable[[], None], poll_s: float) -> tuple[bool, Any]:
        """The next result; (False, None) after the last one. `check` is called now and then, and may raise."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.results or self.ended, poll_s)
                if self.results:
                    self.num_under_way -= 1
                    self._changed.notify_all()
                    return True, self.results.popleft()
                if self.ended:
                    return False, None
            check()

    def cancel(self) -> None:
        """The caller has gone: what it has not fed is dropped, and so are its results."""
        with self._changed:
            self.cancelled = True
            self.num_awaited -= len(self.drawn)
            self.drawn.clear()
            self.results.clear()
            self._changed.notify_all()


class Streams:
    """Feeds the items of all callers in turns, and hands their results back; no caller waits for another's items."""

    def __init__(self, capacity: int, arrays: Callable[[Any, int], Arrays]) -> None:
        """
        Args:
            capacity: items of one caller that may be under way, so that one who takes no results draws no more.
            arrays: an item as an array for each input of the model, given its number; may raise.
        """
        self._capacity, self._arrays = capacity, arrays
        self._changed = threading.Condition()
        self._open: deque[Stream] = deque()
        """Those that may still feed, the next one first."""
        self._by_name: dict[str, Stream] = {}
        self._num_opened = 0
        self._closed = self._partial = False
        """`_partial`: items were fed since the last mark that sends a partly filled microbatch."""

    def open(self, items: Iterable[Any]) -> Stream:
        with self._changed:
            stream = Stream(str(self._num_opened), items, self._capacity, self._changed)
            self._num_opened += 1
            self._by_name[stream.name] = stream
            self._open.append(stream)
            stream.cancelled = self._closed
        threading.Thread(target=self._draw, args=(stream,), name=f"stream {stream.name}", daemon=True).start()
        return stream

    def close(self) -> None:
        """Ends every call, and then the items."""
        with self._changed:
            streams = list(self._by_name.values())
            self._closed = True
            self._changed.notify_all()
        for stream in streams:
            stream.cancel()

    def give(self, name: str, result: Any) -> None:
        """The result of a stream's next item."""
        with self._changed:
            stream = self._by_name[name]
            stream.num_awaited -= 1
            if not stream.cancelled:
                stream.results.append(result)
            self._forget(stream)
            self._changed.notify_all()

    def items(self) -> Iterator[Item | Flush]:
        """For the one thread that feeds: the items of all callers, until these are closed."""
        while (following := self._next()) is not None:
            yield following

    def _next(self) -> Item | Flush | None:
        with self._changed:
            self._changed.wait_for(self._has_news, IDLE_S if self._partial else None)
            for _ in range(len(self._open)):
                stream = self._open[0]
                self._open.rotate(-1)
                if stream.drawn:
                    self._partial = True
                    return stream.drawn.popleft()
            if self._closed:
                return None
            self._partial = False
            return FLUSH

    def _has_news(self) -> bool:
        """An item, the end, or a mark that no more items will fill the microbatch."""
        if self._closed or any(stream.drawn for stream in self._open):
            return True
        return self._partial and all(stream.all_drawn for stream in self._open)

    def _draw(self, stream: Stream) -> None:
        """In the stream's own thread: its items, no faster than their results are taken."""
        error: BaseException | None = None
        try:
            for index, value in enumerate(stream.items):
                item = Item(Entry(index=index, stream=stream.name), self._arrays(value, index))
                with self._changed:
                    self._changed.wait_for(lambda: stream.cancelled or stream.num_under_way < stream.capacity)
                    if stream.cancelled:
                        break
                    stream.num_under_way += 1
                    stream.num_awaited += 1
                    stream.drawn.append(item)
                    self._changed.notify_all()
        except BaseException as raised:  # the caller's iterable may raise anything, and the caller is who must get it
            error = raised
        with self._changed:
            stream.error, stream.all_drawn = error, True
            self._forget(stream)
            self._changed.notify_all()

    def _forget(self, stream: Stream) -> None:
        if stream.ended and stream.all_drawn:
            self._by_name.pop(stream.name, None)
            if stream in self._open:
                self._open.remove(stream)
