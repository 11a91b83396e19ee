"""What is still under way when the service's last time is over is told so, and counted as it was told."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgelaunch.common.addresses import LOOPBACK
from edgelaunch.process.listener import listen_at
from edgelaunch.serve.http.assembly import assemble
from edgelaunch.serve.http.awaiting import all_results, answered, first_of
from edgelaunch.serve.http.bodies import read_body
from edgelaunch.serve.http_server import HttpServer
from edgelaunch.serve.routes.event_stream import KEEP, EventStream

WAIT_S = 30.0
HEAD = b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"


class Service:
    """One whose results never come; `begun`: requests that wait for theirs."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.closed = threading.Event()
        self.counted: list[tuple[str, int]] = []
        routes = [Route(path, self.answer, methods=["POST"]) for path in ("/body", "/items", "/text", "/stream")]
        app = assemble(routes, None, "/docs", lambda route, status, seconds: self.counted.append((route, status)))
        listener = listen_at(LOOPBACK, 0, "choose another")
        self.port = listener.getsockname()[1]
        self.server = HttpServer(app, listener, 0.0, 64)
        self.server.start()

    async def answer(self, request: Request) -> Response:
        self.begun.release()
        await read_body(request, most_bytes=1 << 20, most_s=WAIT_S, hold=lambda num_bytes: None)
        if request.url.path == "/items":
            await all_results([Future()], request.receive, WAIT_S)
        if request.url.path == "/text":
            await answered(asyncio.Event().wait(), request.receive, WAIT_S)
        return EventStream(self.events(), self.closed.set)

    async def events(self) -> AsyncGenerator[str, None]:
        yield KEEP
        await asyncio.Event().wait()

    def send(self, data: bytes) -> socket.socket:
        connection = socket.create_connection((LOOPBACK, self.port), WAIT_S)
        connection.sendall(data)
        assert self.begun.acquire(timeout=WAIT_S)
        return connection


def read_all(connection: socket.socket) -> tuple[bytes, bytes]:
    with connection:
        head, _, body = b"".join(iter(lambda: connection.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    return head, body


def error_of(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)["error"]
    return found


def test_each_is_told(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    whole = [service.send(HEAD % (b"/items", 0)), service.send(HEAD % (b"/text", 1) + b"x"),
             service.send(HEAD % (b"/body", 9) + b"half")]  # fmt: skip
    stream = service.send(HEAD % (b"/stream", 0))
    with caplog.at_level(logging.WARNING):
        deadline = time.monotonic() + WAIT_S
        first = b""
        while KEEP.encode() not in first:
            assert time.monotonic() < deadline
            first += stream.recv(1 << 16)
        assert service.server.stop() == 4
    for connection in whole:
        head, body = read_all(connection)
        assert b" 503 " in head.splitlines()[0]
        assert b"connection: close" in head.lower()
        error = error_of(body)
        assert (error["type"], error["code"]) == ("server_error", "stopping")
        assert "--grace" in error["message"]
    rest = first + b"\r\n\r\n".join(read_all(stream))
    assert rest.rstrip().endswith(b"0")  # the last chunk: the answer is whole
    last = next(line for line in rest.splitlines() if line.startswith(b"data: "))
    assert error_of(last.removeprefix(b"data: "))["code"] == "stopping"
    assert service.closed.is_set()
    assert sorted(service.counted) == [("/body", 503), ("/items", 503), ("/stream", 200), ("/text", 503)]
    assert not caplog.records


@pytest.mark.slow
def test_a_client_that_reads_nothing_does_not_keep_it() -> None:
    class Endless(Service):
        async def events(self) -> AsyncGenerator[str, None]:
            while True:
                yield "x" * (1 << 20)

    service = Endless()
    with service.send(HEAD % (b"/stream", 0)) as stream:
        assert stream.recv(1, socket.MSG_PEEK)
        assert service.server.stop() == 1
        assert not service.server.alive
    assert service.closed.is_set()


def test_what_forgets_that_it_was_cancelled_is_told_again() -> None:
    times = 0

    async def forgets() -> None:
        nonlocal times
        while times < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                times += 1

    async def both() -> None:
        task, other = asyncio.ensure_future(forgets()), asyncio.ensure_future(asyncio.sleep(0))
        await asyncio.wait_for(first_of(task, other), WAIT_S)
        assert task.done()

    asyncio.run(both())
    assert times == 3
