"""Waits for a result while whoever asked is there, and no longer than allowed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.types import Receive

from edgelaunch.serve.http.api_error import ApiError, ClientGone

__all__ = ["all_results", "answered", "first_of", "left"]

T = TypeVar("T")
AGAIN_S = 0.1


async def answered(work: Coroutine[Any, Any, T], receive: Receive, timeout_s: float) -> T:
    """What it returns; where nobody waits for it any longer it is cancelled.

    Args:
        receive: of the request, whose body has been read.

    Raises:
        ApiError: 504, there is no result in time.
        ClientGone: whoever asked has left.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(left(receive))
    await first_of(task, gone, timeout_s)
    if task.done() and not task.cancelled():
        return task.result()
    if gone.done() and not gone.cancelled():
        raise ClientGone
    raise _too_late(timeout_s)


async def all_results(futures: Sequence[Future[Any]], receive: Receive, timeout_s: float) -> list[Any]:
    """Of the pipeline's futures, likewise: one step of the loop once the last is there, and not some for each."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    count = itertools.count(1)  # the results come in another thread

    def finish(error: BaseException | None = None) -> None:
        if not end.done():
            end.set_result(None) if error is None else end.set_exception(error)

    def came(future: Future[Any]) -> None:
        if next(count) == len(futures) or future.cancelled() or future.exception() is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish)

    gone = asyncio.ensure_future(left(receive))
    gone.add_done_callback(lambda done: finish(ClientGone()))
    timer = loop.call_later(timeout_s, lambda: finish(_too_late(timeout_s)))
    try:
        for future in futures:
            future.add_done_callback(came)
        await end
        failed = next((future for future in futures if future.done() and future.exception() is not None), None)
        return [future.result() for future in ([failed] if failed is not None else futures)]
    finally:
        timer.cancel()
        gone.cancel()
        for future in futures:
            future.cancel()


def _too_late(timeout_s: float) -> ApiError:
    return ApiError(504, f"no result within {timeout_s:g} s (--request-timeout)", code="timeout")


async def first_of(task: asyncio.Future[Any], other: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Until one of them is done; then neither runs. A task that is done keeps its result."""
    try:
        await asyncio.wait({task, other}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for item in (task, other):
            if not item.done():
                await _cancelled(item)


async def _cancelled(item: asyncio.Future[Any]) -> None:
    """Told so again where what it waited for came at the same moment: before Python 3.12 `wait_for` forgets it then."""
    while not item.done():
        item.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({item}, timeout=AGAIN_S)
    if not item.cancelled():
        item.exception()  # is nobody's


async def left(receive: Receive) -> None:
    """Until the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
