"""The concurrent callers of a Pipeline, which share its microbatches; each reads its items in its own thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from edgelaunch.common.items import FLUSH, Entry, Flush, Item
from edgelaunch.pipeline.single_items import Singles

__all__ = ["Stream", "Streams"]

IDLE_S = 0.01
"""How long a partly filled microbatch waits for the next item of any caller; then it is sent as it is."""
HELD_S = 0.1
"""How often it is looked at while enough messages are under way; each result is a look, too."""

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

    def __init__(
        self, capacity: int, arrays: Callable[[Any, int], Arrays], enough: Callable[[], bool] = lambda: False
    ) -> None:
        """
        Args:
            capacity: items of one caller that may be under way, so that one who takes no results draws no more.
            arrays: an item as an array for each input of the model, given its number; may raise.
            enough: whether so many messages are under way that every stage is busy: a partly filled microbatch then
                waits for more items, at most until a result comes.
        """
        self._capacity, self._arrays, self._enough = capacity, arrays, enough
        self._changed = threading.Condition()
        self._singles = Singles(self._changed)
        self._open: deque[Stream] = deque()
        """Those that may still feed, the next one first."""
        self._by_name: dict[str, Stream] = {}
        self._num_opened = 0
        self._closed = self._partial = self._singles_turn = False
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

    def submit(self, arrays: Arrays) -> Future[Any]:
        """An item that fits; its result. A future that is cancelled frees the item's place."""
        return self._singles.submit(arrays)

    def num_waiting(self) -> int:
        """Items that could be fed."""
        with self._changed:
            return self._singles.waiting + sum(len(stream.drawn) for stream in self._open)

    def close(self) -> None:
        """Ends every call, and then the items."""
        with self._changed:
            streams = list(self._by_name.values())
            self._closed = True
            self._changed.notify_all()
        for stream in streams:
            stream.cancel()
        self.fail(RuntimeError("the pipeline is closed"))

    def fail(self, error: BaseException) -> None:
        """No future gets a result any more."""
        self._singles.fail(error)

    def give(self, name: str, result: Any) -> None:
        """The result of a stream's next item."""
        if self._singles.owns(name):
            self._singles.give(name, result)
            return
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
            while not self._changed.wait_for(self._has_news, self._patience_s()) and self._held():
                pass
            item = self._turn()
            self._partial = item is not None
            return item or (None if self._closed else FLUSH)

    def _turn(self) -> Item | None:
        """Single items and streams take turns, and so do the streams."""
        self._singles_turn = not self._singles_turn
        if self._singles_turn and (single := self._singles.take()) is not None:
            return single
        for _ in range(len(self._open)):
            stream = self._open[0]
            self._open.rotate(-1)
            if stream.drawn:
                return stream.drawn.popleft()
        return self._singles.take()

    def _has_news(self) -> bool:
        """An item, the end, or a mark that no more items will fill the microbatch."""
        if self._closed or self._singles.waiting or any(stream.drawn for stream in self._open):
            return True
        return self._partial and all(stream.all_drawn for stream in self._open) and not self._held()

    def _held(self) -> bool:
        return self._partial and self._enough()

    def _patience_s(self) -> float | None:
        if not self._partial:
            return None
        return HELD_S if self._enough() else IDLE_S

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
