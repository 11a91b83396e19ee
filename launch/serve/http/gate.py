"""The outermost layer of the service: its key, its counts, an answer for whoever still sends, or waits at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgelaunch.serve.http.access_key import has_key
from edgelaunch.serve.http.api_error import ApiError, ending, error_answer

__all__ = ["OPEN_PATHS", "Gate"]

OPEN_PATHS = ("/healthz", "/readyz", "/openapi.json", "/docs", "/")
"""These need no key: they tell what the service is, and compute nothing."""
MOST_HEARD_BYTES, MOST_HEARD_S = 64 << 20, 5.0
"""Of the rest of a body that was refused: who is still sending would not read why."""


class Gate:
    def __init__(
        self, app: ASGIApp, key: bytes | None, count: Callable[[str, int, float], None], known: frozenset[str]
    ) -> None:
        """`count`: told of the route, the status and the seconds of each request; `known`: routes, others are one."""
        self._app, self._key, self._count, self._known = app, key, count, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, path = perf_counter(), scope["path"]
        exchange = _Exchange(receive, send, waits=(b"expect", b"100-continue") in scope["headers"])
        try:
            if self._may_pass(scope):
                await self._app(scope, exchange.receive, exchange.send)
            else:
                error = ApiError(401, "the API key is missing or wrong: send Authorization: Bearer KEY",
                                 code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
                await error_answer(error)(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the service ends
            await exchange.cut_off(scope)
        finally:
            self._count(path if path in self._known else "other", exchange.status, perf_counter() - begin)

    def _may_pass(self, scope: Scope) -> bool:
        if self._key is None or scope["path"] in OPEN_PATHS:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return has_key(self._key, given)


class _Exchange:
    """One request and its answer."""

    def __init__(self, receive: Receive, send: Send, *, waits: bool) -> None:
        """`waits`: whether the client sends no body before it is asked for."""
        self._receive, self._send, self._waits = receive, send, waits
        self._heard = self._begun = False
        self.status = 500

    async def receive(self) -> Message:
        self._waits = False
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._heard = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status >= 400 and not self._heard and not self._waits:
                await self._hear_out()
            self._begun = True
        await self._send(message)

    async def cut_off(self, scope: Scope) -> None:
        """Without hearing the rest of a body. An answer that has begun ends as it is."""
        if not self._begun:
            self._heard = True
            with contextlib.suppress(asyncio.CancelledError):  # nobody reads
                await error_answer(ending())(scope, self.receive, self.send)

    async def _hear_out(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._discard(), MOST_HEARD_S)

    async def _discard(self) -> None:
        total = 0
        while not self._heard and total <= MOST_HEARD_BYTES:
            message: dict[str, Any] = dict(await self.receive())
            total += len(message.get("body", b""))
