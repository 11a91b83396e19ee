"""Server-sent events, which end when the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgelaunch.serve.http.api_error import ApiError
from edgelaunch.serve.http.awaiting import first_of, left

__all__ = ["DONE", "KEEP", "EventStream", "event"]

DONE = "data: [DONE]\n\n"
KEEP = ": waiting\n\n"
"""A comment, which clients ignore and proxies take for a sign of life."""


def event(content: Any) -> str:
    return f"data: {json.dumps(content, allow_nan=False, separators=(',', ':'))}\n\n"


class EventStream(Response):
    """An answer in pieces. What goes wrong after the first of them is an event with an error."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], close: Callable[[], None]) -> None:
        """`close` is called whatever happens, also where `events` were never begun."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, gone = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(left(receive))
        try:
            await first_of(task, gone)
        finally:
            self._close()
            await self._events.aclose()
        if task.done() and not task.cancelled():
            task.result()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for text in self._events:
                await send({"type": "http.response.body", "body": text.encode("ascii"), "more_body": True})
        except ApiError as error:
            await send({"type": "http.response.body", "body": event(error.content()).encode("ascii"),
                        "more_body": True})  # fmt: skip
        await send({"type": "http.response.body", "body": b"", "more_body": False})
