"""Results of a stream of items as they come, with and without asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from edgelaunch.application.deadlines import Deadline, checked_timeout
from edgelaunch.application.running import POLL_S, Running
from edgelaunch.pipeline.callers import Stream

__all__ = ["results_of", "results_of_async"]

END = object()


def results_of(stream: Stream, running: Running, deadline: Deadline) -> Iterator[Any]:
    """In the items' order. Whoever stops taking them cancels the rest."""
    try:
        while True:
            there, result = stream.take(deadline.check, deadline.wait_s(POLL_S))
            if not there:
                break
            yield result
        if stream.error is not None:
            raise stream.error
        if stream.cancelled:
            running.check()
    finally:
        stream.cancel()


async def results_of_async(
    running: Running, items: Iterable[Any] | AsyncIterable[Any], timeout: float | None
) -> AsyncIterator[Any]:
    """Likewise. A task draws the items, so that a result is there although the next item is not."""
    timeout = checked_timeout(timeout)
    drawn: asyncio.Queue[Future[Any] | BaseException | None] = asyncio.Queue()
    room = asyncio.Semaphore(running.most_under_way())
    task = asyncio.create_task(_draw(running, items, drawn, room))
    pending: Future[Any] | BaseException | None = None
    try:
        while (pending := await drawn.get()) is not None:
            if isinstance(pending, BaseException):
                raise pending
            yield await _result(pending, timeout)
            room.release()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if isinstance(pending, Future):
            pending.cancel()
        while not drawn.empty():
            if isinstance(rest := drawn.get_nowait(), Future):
                rest.cancel()


async def _result(pending: Future[Any], timeout: float | None) -> Any:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(pending), timeout)
    except asyncio.TimeoutError:  # before Python 3.11 not the built-in one
        raise TimeoutError(f"no result within {timeout:g} s") from None


async def _draw(
    running: Running, items: Iterable[Any] | AsyncIterable[Any],
    drawn: asyncio.Queue[Future[Any] | BaseException | None], room: asyncio.Semaphore,
) -> None:  # fmt: skip
    """What the caller's items raise is handed on in their order."""
    try:
        index = 0
        source = items if isinstance(items, AsyncIterable) else _in_a_thread(items)
        async for item in source:
            await room.acquire()
            drawn.put_nowait(await asyncio.to_thread(running.submit, item, f"item {index}"))
            index += 1
        drawn.put_nowait(None)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        drawn.put_nowait(error)


async def _in_a_thread(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Of an iterator that may wait, without keeping other tasks waiting."""
    if isinstance(items, Sequence):
        for item in items:
            yield item
        return
    iterator = iter(items)
    while (item := await asyncio.to_thread(next, iterator, END)) is not END:
        yield item
