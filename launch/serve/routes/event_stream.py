"""Server-sent events, which end when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgelaunch.serve.http.api_error import ApiError, ending
from edgelaunch.serve.http.awaiting import first_of, left

__all__ = ["DONE", "KEEP", "EventStream", "event"]

DONE = "data: [DONE]\n\n"
LAST_S = 1.0
"""For the last event of a stream that the service's end cuts off: its client may read nothing."""
KEEP = ": waiting\n\n"
"""A comment, which clients ignore and proxies take for a sign of life."""


def event(content: Any) -> str:
    return f"data: {json.dumps(content, allow_nan=False, separators=(',', ':'))}\n\n"


class EventStream(Response):
    """An answer in pieces. What goes wrong after the first of them is an event with an error, and so is the end."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], close: Callable[[], None]) -> None:
        """`close` is called whatever happens, also where `events` were never begun."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._close = events, close
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, gone = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(left(receive))
        try:
            await first_of(task, gone)
        except asyncio.CancelledError:  # the service ends
            if not self._begun:
                raise
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._fail(send, ending()), LAST_S)
        finally:
            self._close()
            await self._events.aclose()
        if task.done() and not task.cancelled():
            task.result()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._begun = True
        try:
            async for text in self._events:
                await send({"type": "http.response.body", "body": text.encode("ascii"), "more_body": True})
        except ApiError as error:
            await self._fail(send, error)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _fail(self, send: Send, error: ApiError) -> None:
        body = event(error.content()).encode("ascii")
        await send({"type": "http.response.body", "body": body, "more_body": False})
