"""Waits for a result while whoever asked is there, and no longer than allowed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from edgelaunch.serve.http.api_error import ApiError, ClientGone

__all__ = ["answered", "first_of", "left"]

T = TypeVar("T")


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
    raise ApiError(504, f"no result within {timeout_s:g} s (--request-timeout)", code="timeout")


async def first_of(task: asyncio.Future[Any], other: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Until one of them is done; then neither runs. A task that is done keeps its result."""
    try:
        await asyncio.wait({task, other}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for item in (task, other):
            if not item.done():
                item.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await item


async def left(receive: Receive) -> None:
    """Until the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
