"""Connections that are slow, endless, stuck or many: each ends with one line, and the others are served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from edgelaunch.common.addresses import LOOPBACK
from edgelaunch.process.listener import listen_at
from edgelaunch.serve.http import guarded_protocol
from edgelaunch.serve.http.api_error import ApiError, error_answer
from edgelaunch.serve.http_server import HttpServer

LARGE = 64 << 20
WAIT_S = 30.0


async def size(request: Request) -> Response:
    return PlainTextResponse(str(sum([len(piece) async for piece in request.stream()])))


async def refuse(request: Request) -> Response:
    """Without a look at the body."""
    return error_answer(ApiError(401, "no"))


async def large(request: Request) -> Response:
    return Response(bytes(LARGE))


class Server:
    """One that has no pipeline. `begin`: then /parts sends its second part."""

    def __init__(self, most: int) -> None:
        routes = [Route("/size", size, methods=["POST"]), Route("/refuse", refuse, methods=["POST"]),
                  Route("/large", large), Route("/parts", self.parts, methods=["POST"])]  # fmt: skip
        self.begin = threading.Event()
        listener = listen_at(LOOPBACK, 0, "choose another")
        self.port = listener.getsockname()[1]
        self.server = HttpServer(Starlette(routes=routes), listener, 1.0, most)
        self.server.start()

    async def parts(self, request: Request) -> Response:
        async def both() -> AsyncIterator[str]:
            yield "one"
            await asyncio.get_running_loop().run_in_executor(None, self.begin.wait, WAIT_S)
            yield "two"

        return StreamingResponse(both())

    def connect(self) -> socket.socket:
        return socket.create_connection((LOOPBACK, self.port), WAIT_S)


@pytest.fixture
def served() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(most: int = 8) -> Server:
            server = Server(most)
            stack.callback(server.server.stop)
            return server

        yield start


def answer(connection: socket.socket) -> tuple[bytes, dict[str, Any]]:
    """The status line and the error of an answer after which the server closes the connection."""
    head, _, body = read_all(connection).partition(b"\r\n\r\n")
    return head.splitlines()[0], json.loads(body)["error"]


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize("before", [b"", b"POST /size HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx"],
                         ids=["first", "later"])  # fmt: skip
def test_headers_that_do_not_come(
    served: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setattr(guarded_protocol, "HEAD_S", 0.2)
    with served().connect() as slow:
        if before:
            slow.sendall(before)
            assert slow.recv(1 << 16).endswith(b"\r\n\r\n1")
        slow.sendall(b"POST /size HTTP/1.1\r\nhost:")
        status, error = answer(slow)
    assert b" 408 " in status
    assert error["code"] == "headers_timeout"


def test_a_connection_that_says_nothing_is_closed(
    served: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_protocol, "HEAD_S", 0.2)
    with served().connect() as silent:
        assert read_all(silent) == b""


def test_headers_without_end(served: Callable[..., Server]) -> None:
    with served().connect() as endless:
        endless.sendall(b"POST /size HTTP/1.1\r\nx: " + b"y" * (guarded_protocol.MOST_HEAD_BYTES + 1))
        status, error = answer(endless)
    assert b" 431 " in status
    assert error["code"] == "headers_too_large"


def test_too_many_connections_are_told_so(served: Callable[..., Server]) -> None:
    server = served(2)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(server.connect())
            connection.sendall(b"POST /size HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
            assert b" 200 " in connection.recv(1 << 16)  # it is counted
        with httpx.Client() as third:
            refused = third.post(f"http://{LOOPBACK}:{server.port}/size", content=b"x", timeout=WAIT_S)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "--max-connections" in refused.json()["error"]["message"]
        connection.sendall(b"POST /size HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nxy")
        assert connection.recv(1 << 16).endswith(b"\r\n\r\n2")  # those that were there are served on


def test_whoever_sends_on_after_a_refusal_is_cut_off(served: Callable[..., Server]) -> None:
    with served().connect() as sender:
        sender.sendall(b"POST /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nx")
        status, error = answer(sender)
    assert b" 401 " in status
    assert error["message"] == "no"


def test_an_answer_that_nobody_reads(served: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_protocol, "STUCK_S", 0.2)
    with served().connect() as stuck:
        stuck.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        stuck.settimeout(WAIT_S)
        assert stuck.recv(1, socket.MSG_PEEK)
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            _send_until_it_is_gone(stuck)


def _send_until_it_is_gone(connection: socket.socket) -> None:
    while True:
        connection.send(b"x")


@pytest.mark.parametrize("count", [0, 1, guarded_protocol.PIECE_BYTES, 3_000_001])
def test_a_body_comes_whole(served: Callable[..., Server], count: int) -> None:
    url = f"http://{LOOPBACK}:{served().port}/size"
    with httpx.Client(timeout=WAIT_S) as client:
        assert client.post(url, content=bytes(count)).text == str(count)
        pieces = (bytes(min(70_000, count - begin)) for begin in range(0, count, 70_000))
        assert client.post(url, content=pieces).text == str(count)


def test_what_is_not_http(served: Callable[..., Server]) -> None:
    with served().connect() as other:
        other.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        status, error = answer(other)
    assert b" 400 " in status
    assert error["type"] == "invalid_request_error"


def test_requests_behind_one_another_are_answered_in_order(served: Callable[..., Server]) -> None:
    with served().connect() as connection:
        connection.sendall(b"".join(
            b"POST /size HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (count, bytes(count))
            for count in (1, 300_000, 22)
        ) + b"GET /nothing HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")  # fmt: skip
        found = read_all(connection)
    bodies = [part.partition(b"HTTP/1.1")[0] for part in found.split(b"\r\n\r\n")[1:]]
    assert bodies[:3] == [b"1", b"300000", b"22"]


UPGRADE = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
CHUNKS = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


@pytest.mark.parametrize("step", [1 << 20, 1, 50, 140], ids=["whole", "bytes", "pieces", "at the body"])
@pytest.mark.parametrize(
    ("how", "body"),
    [(b"content-length: 5\r\n", b"abcde"), (b"transfer-encoding: chunked\r\n", CHUNKS)],
    ids=["length", "chunked"],
)
def test_an_upgrade_is_ignored(served: Callable[..., Server], step: int, how: bytes, body: bytes) -> None:
    """As curl --http2 and Java's client ask for it; the connection goes on, also with another such request."""
    one = b"POST /size HTTP/1.1\r\nhost: a\r\n" + UPGRADE + how + b"\r\n" + body
    sent = one + one + b"GET /nothing HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: close, upgrade\r\n\r\n"
    with served().connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin in range(0, len(sent), step):
            connection.sendall(sent[begin : begin + step])
        found = read_all(connection)
    bodies = [part.partition(b"HTTP/1.1")[0] for part in found.split(b"\r\n\r\n")[1:]]
    assert bodies == [b"5", b"5", b"Not Found"]


def test_a_tunnel_is_refused(served: Callable[..., Server]) -> None:
    with served().connect() as connection:
        connection.sendall(b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\nabc")
        status, error = answer(connection)
    assert b" 405 " in status
    assert "CONNECT" in error["message"]


def test_headers_that_are_too_large_in_one_piece(served: Callable[..., Server]) -> None:
    with served().connect() as large:
        large.sendall(b"POST /size HTTP/1.1\r\nx: " + b"y" * (guarded_protocol.MOST_HEAD_BYTES + 1) + b"\r\n\r\n")
        status, error = answer(large)
    assert b" 431 " in status
    assert error["code"] == "headers_too_large"


GARBAGE = b"GARBAGE\r\n\r\n"
BAD_BODY = b"POST /size HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
LARGE_HEAD = b"GET /size HTTP/1.1\r\nx: " + b"y" * (guarded_protocol.MOST_HEAD_BYTES + 1)
SLOW_HEAD = b"GET /size HTTP/1.1\r\nx: "


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("wrong", [GARBAGE, BAD_BODY, LARGE_HEAD, SLOW_HEAD], ids=["garbage", "body", "head", "slow"])
def test_what_is_wrong_behind_requests_is_told_behind_their_answers(
    served: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, wrong: bytes, apart: bool
) -> None:
    """Also where an answer is under way: what comes of it is whole."""
    monkeypatch.setattr(guarded_protocol, "HEAD_S", 0.2)
    server = served()
    with server.connect() as connection:
        right = (b"POST /parts HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
                 b"POST /size HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab")  # fmt: skip
        connection.sendall(right + (b"" if apart else wrong))
        found = connection.recv(1 << 16) if apart else b""
        connection.sendall(wrong if apart else b"")
        server.begin.wait(0.0 if wrong is not SLOW_HEAD else 0.5)
        server.begin.set()
        found += read_all(connection)
    first, second, third = found.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert first.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert second.startswith(b"200")
    assert second.endswith(b"\r\n\r\n2")
    assert third.partition(b" ")[0] in (b"400", b"408", b"431")
    assert set(json.loads(third.partition(b"\r\n\r\n")[2])) == {"error"}


def test_a_damaged_body_is_told_at_once(served: Callable[..., Server]) -> None:
    with served().connect() as connection:
        connection.sendall(BAD_BODY)
        assert b" 400 " in answer(connection)[0]
