"""The agent's HTTP server: who knows the secret is answered, anybody else is refused in one line. Imports no torch."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan_file import MAX_PLAN_BYTES
from edgelaunch.boards.agent.board_agent import BoardAgent, BusyError
from edgelaunch.boards.job_orders import FILE_NAME, JOB, JobOrder, read_object
from edgelaunch.boards.signed_requests import BODY, CHALLENGE, SHA256, SIGNATURE, TOKEN, Proof, sha256_of
from edgelaunch.common.addresses import Address
from edgelaunch.common.software import PROTOCOL

__all__ = ["AgentServer"]

MOST_CONNECTIONS = 64
HEAD_S = 10.0
"""So long may a request take until it has proved who sends it."""
SILENCE_S = 60.0
"""And so long may it stand still after that."""
NEWS_S = 2.0
"""An answer waits so long for news."""
MOST_ORDER_BYTES = 4 << 20
MOST_FILE_BYTES = 1 << 40
PIECE_BYTES = 1 << 20


class AgentServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: Address, agent: BoardAgent) -> None:
        """Raises UserError where nothing can listen there."""
        self.agent = agent
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        try:
            super().__init__((address.host, address.port), _Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"nothing can listen at {address}: {reason}", key="edgelaunch agent",
                            fix="is another agent running? else name another --port") from None  # fmt: skip

    def server_bind(self) -> None:
        """Without asking a name server for this machine's name, as the library does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is nobody's error; anything else is ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            sys.stderr.write(traceback.format_exc())


class _Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: AgentServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "edgelaunch", ""
    timeout = HEAD_S

    def setup(self) -> None:
        super().setup()
        self._proof: Proof | None = None
        self._timer = threading.Timer(HEAD_S, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def finish(self) -> None:
        self._timer.cancel()
        super().finish()

    def _give_up(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def handle_expect_100(self) -> bool:
        """Nothing is said to who has proved nothing yet."""
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: whoever knocks would fill the log."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of the library's own refusals, in our form."""
        self._send(code, _error(message or "not an agent's request"))

    # --- one request -------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        self.close_connection = True
        try:
            if self.path == "/hello":
                self._hello()
                return
            method, target = str(self.command), self.path
            proof = Proof.read({name: str(value) for name, value in self.headers.items()})
            refusal = self.server.agent.session.refusal(method, target, proof)
            if refusal is not None:
                raise _Refused(401, refusal)
            self._proof = proof
            self._timer.cancel()
            self.connection.settimeout(SILENCE_S)
            found = _route(method, target)
            if found is None:
                raise _Refused(404, "an agent is asked no such thing: install the same edgecompile on both ends")
            call, parts = found
            result = call(self, *parts)
            if isinstance(result, Path):
                self._send_file(result)
            else:
                self._send(200, result)
        except _Refused as error:
            self._send(error.status, _error(str(error)))
        except BusyError as error:
            self._send(409, _error(str(error)))
        except UserError as error:
            self._send(400, _error(str(error)))
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            self._send(500, _error(f"{error.strerror or error}"))

    def _hello(self) -> None:
        challenge = self.headers.get(CHALLENGE) or ""
        if not TOKEN.fullmatch(challenge):
            raise _Refused(400, "not an agent's request")
        session = self.server.agent.session
        told = {"session": session.name, "time_ms": session.time_ms(), "protocol": PROTOCOL}
        body = json.dumps(told).encode()
        self._send(200, body, signature=session.hello_signature(challenge, body))

    def _send(self, status: int, body: bytes, *, signature: str = "") -> None:
        """Signed, if the request was."""
        body_sha256 = sha256_of(body)
        self._head(status, len(body), body_sha256, signature)
        self.wfile.write(body)

    def _head(self, status: int, num_bytes: int, body_sha256: str, signature: str = "") -> None:
        if self._proof is not None:
            signature = self.server.agent.session.answer_signature(self._proof, status, body_sha256)
        self.request_version = self.protocol_version  # whatever it was: an answer has a head
        self.send_response_only(status)
        for name, value in (("Content-Length", str(num_bytes)), (BODY, body_sha256), (SIGNATURE, signature),
                            ("Connection", "close")):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: Path) -> None:
        self._head(200, path.stat().st_size, file_sha256(path))
        with open(path, "rb") as file:
            while piece := file.read(PIECE_BYTES):
                self.wfile.write(piece)

    # --- its body ----------------------------------------------------------------------------------------------------

    def length(self, most: int) -> int:
        """Of the body, in bytes."""
        text = self.headers.get("Content-Length") or "0"
        if self.headers.get("Transfer-Encoding") or not re.fullmatch("[0-9]{1,15}", text):
            raise _Refused(411, "a request says how long it is")
        if int(text) > most:
            raise _Refused(413, f"a request of {text} bytes is too long: at most {most}")
        return int(text)

    def body(self) -> bytes:
        """The whole of a short one, with the hash that was signed."""
        data = self.rfile.read(self.length(MOST_ORDER_BYTES))
        if sha256_of(data) != self.signed_sha256:
            raise _Refused(400, "the request did not come whole")
        return data

    @property
    def signed_sha256(self) -> str:
        assert self._proof is not None
        return self._proof.body_sha256

    @property
    def caller(self) -> str:
        return str(self.client_address[0]).removeprefix("::ffff:")


def _error(text: str) -> bytes:
    return json.dumps({"error": " ".join(text.split())}).encode()


# --- what can be asked -----------------------------------------------------------------------------------------------


def _board(handler: _Handler) -> bytes:
    agent = handler.server.agent
    return json.dumps(agent.facts().values() | {"peers": [str(peer) for peer in agent.peers()]}).encode()


def _join(handler: _Handler) -> bytes:
    port = read_object(handler.body()).get("port")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 1 << 16:
        raise UserError("a board that joins says at which port it listens")
    handler.server.agent.join(Address(handler.caller, port))
    return b"{}"


def _keep_plan(handler: _Handler, sha256: str) -> bytes:
    _same_hash(handler, sha256)
    handler.server.agent.folders.keep_plan(sha256, handler.rfile, handler.length(MAX_PLAN_BYTES))  # type: ignore[arg-type]
    return b"{}"


def _lacking(handler: _Handler, sha256: str) -> bytes:
    return json.dumps({"lacking": handler.server.agent.folders.lacking(sha256)}).encode()


def _keep_file(handler: _Handler, plan_sha256: str, sha256: str) -> bytes:
    _same_hash(handler, sha256)
    num_bytes = handler.length(MOST_FILE_BYTES)
    handler.server.agent.folders.keep_file(plan_sha256, sha256, handler.rfile, num_bytes)  # type: ignore[arg-type]
    return b"{}"


def _keep_input(handler: _Handler, sha256: str, name: str) -> bytes:
    _same_hash(handler, sha256)
    num_bytes = handler.length(MOST_FILE_BYTES)
    handler.server.agent.folders.keep_input(sha256, name, handler.rfile, num_bytes)  # type: ignore[arg-type]
    return b"{}"


def _start(handler: _Handler) -> bytes:
    order = JobOrder.read(handler.body())
    who = f"{order.caller} ({handler.caller})" if order.caller else handler.caller
    handler.server.agent.start(order, who)
    return b"{}"


def _news(handler: _Handler, job: str, since: str) -> bytes:
    return handler.server.agent.job(job).log.news(int(since), NEWS_S).to_json()


def _end(handler: _Handler, job: str) -> bytes:
    handler.server.agent.job(job).end()
    return b"{}"


def _file(handler: _Handler, job: str, name: str) -> Path:
    return handler.server.agent.job(job).file(name)


def _same_hash(handler: _Handler, sha256: str) -> None:
    if handler.signed_sha256 != sha256:
        raise UserError("the request's body has another sha256 than its name")


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., bytes | Path]]] = [
    (method, re.compile(pattern.format(sha=f"({SHA256.pattern})", job=f"({JOB.pattern})",
                                       name=f"({FILE_NAME.pattern})")), call)
    for method, pattern, call in (
        ("GET", "/board", _board),
        ("POST", "/peers", _join),
        ("PUT", "/plans/{sha}", _keep_plan),
        ("GET", "/plans/{sha}/lacking", _lacking),
        ("PUT", "/plans/{sha}/files/{sha}", _keep_file),
        ("PUT", "/inputs/{sha}/{name}", _keep_input),
        ("POST", "/jobs", _start),
        ("GET", "/jobs/{job}/log/([0-9]{{1,15}})", _news),
        ("POST", "/jobs/{job}/end", _end),
        ("GET", "/jobs/{job}/files/{name}", _file),
    )
]  # fmt: skip


def _route(method: str, target: str) -> tuple[Callable[..., bytes | Path], tuple[str, ...]] | None:
    for wanted, pattern, call in ROUTES:
        if wanted == method and (match := pattern.fullmatch(target)):
            return call, match.groups()
    return None
