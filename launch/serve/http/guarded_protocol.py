"""The HTTP protocol of one connection: few steps for a large body, and bounds for whoever is slow, endless or many."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgelaunch.serve.http.api_error import ApiError, error_answer

__all__ = ["GuardedProtocol", "protocol_for"]

HEAD_S = 10.0
"""From the first byte of a request, or from the connection, until its headers are there."""
STUCK_S = 60.0
"""While a client reads nothing of its answer."""
MOST_HEAD_BYTES = 64 << 10
PIECE_BYTES = 128 << 10
"""A body is handed on in pieces of so much, and its connection not read while four of them wait."""
SPARE_CONNECTIONS = 64
"""Above the limit: they are told so; those above these are closed without a word."""


class GuardedProtocol(HttpToolsProtocol):
    most_connections = 1 << 30

    _timer: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _in_head, _in_body = True, False
    _head_bytes = 0
    _late: ApiError | None = None
    """Of what came behind a request that has no answer yet."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._pieces: list[bytes] = []
        self._pending = 0
        if len(self.connections) > self.most_connections + SPARE_CONNECTIONS:
            transport.abort()
            return
        if len(self.connections) > self.most_connections:
            self.app = _Refused(self.most_connections)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._late is not None or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            why = error.__context__
            self._refuse(why if isinstance(why, ApiError) else ApiError(400, "the request is not valid HTTP"))
            return
        if self._in_head and self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(_too_large())

    def _feed(self, data: bytes) -> None:
        """An upgrade to another protocol is ignored (RFC 9110, 7.8): its request is read again without."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(ApiError(405, "CONNECT is not for this service"))
                    return
                head = self._head_without_upgrade()
                self.parser = httptools.HttpRequestParser(self)
                with contextlib.suppress(AttributeError):  # before 0.6.3; as uvicorn's own
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                data = head + data[upgrade.args[0] :]

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [word.strip() for word in value.split(b",") if word.strip().lower() != b"upgrade"]
                lines += [b"connection: %s" % b", ".join(kept)] if kept else []
            elif name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"\r\n"])

    # --- headers -----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:
            self._head_bytes = 1  # and what comes from now on: a body's end may have come with its beginning
            self._begin_head()

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD_BYTES:
            raise _too_large()
        if self.parser.should_upgrade():
            return
        self._end_head()
        self._in_body = True
        super().on_headers_complete()

    def _begin_head(self) -> None:
        self._end_head()
        self._in_head = True
        self._timer = self.loop.call_later(HEAD_S, self._too_slow)

    def _end_head(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self.transport.is_closing():
            return
        if not self._head_bytes:
            self.transport.close()
            return
        self._refuse(ApiError(408, f"the headers did not come within {HEAD_S:g} s", code="headers_timeout"))

    # --- bodies ------------------------------------------------------------------------------------------------------

    def on_body(self, body: bytes) -> None:
        """Without a step of the application for each of them: a large body comes in many."""
        if self.cycle.response_complete:
            return
        self._pieces.append(body)
        self._pending += len(body)
        if self._pending >= PIECE_BYTES:
            self._hand_on()
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_body = False
        self._hand_on()
        super().on_message_complete()

    def _hand_on(self) -> None:
        if self._pieces:
            waiting: Any = self.cycle.body  # of any kind of bytes: the application gets it as bytes
            pieces = [waiting, *self._pieces] if waiting else self._pieces
            self.cycle.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)  # type: ignore[assignment]
            if len(self.cycle.body) >= 4 * PIECE_BYTES:
                self.flow.pause_reading()
            self._pieces, self._pending = [], 0

    # --- answers -----------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        if self._in_body and self.cycle.response_complete:  # who still sends has been heard out for long enough
            self.transport.close()
        last = not self.pipeline
        super().on_response_complete()
        if last and self._late is not None:
            self._write(self._late)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(STUCK_S, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        super().resume_writing()

    def _refuse(self, error: ApiError) -> None:
        """In the same shape as any other request; behind the answers to those that came before."""
        self._end_head()
        if self.transport.is_closing():
            return
        if self._in_body and self.pipeline:  # what is wrong is a body of which nothing has been seen yet
            self.pipeline.popleft()
            self._in_body, self._late = False, error
            return
        if self.cycle is not None and not self.cycle.response_complete:
            if not self._in_body:
                self._late = error
                return
            if self.cycle.response_started:
                self.transport.close()
                return
        self._write(error)

    def _write(self, error: ApiError) -> None:
        if self.transport.is_closing():
            return
        answer = error_answer(error)
        head = f"HTTP/1.1 {error.status} Refused\r\ncontent-type: {answer.media_type}\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(answer.body)}\r\n\r\n".encode() + bytes(answer.body))
        self.transport.close()


def _too_large() -> ApiError:
    return ApiError(431, f"the headers have more than {MOST_HEAD_BYTES} bytes", code="headers_too_large")


def protocol_for(most_connections: int) -> type[GuardedProtocol]:
    return type("Protocol", (GuardedProtocol,), {"most_connections": most_connections})


class _Refused:
    """In place of the application, for a connection above the limit."""

    def __init__(self, most: int) -> None:
        self._error = ApiError(
            503, f"{most} connections are open, as many as there may be (--max-connections): try again later",
            code="too_many_connections", headers={"Retry-After": "1", "Connection": "close"},
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await error_answer(self._error)(scope, receive, send)
