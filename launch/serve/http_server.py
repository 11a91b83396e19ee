"""The HTTP server in a thread of its own: the main thread stays free to hear signals."""

from __future__ import annotations

import logging
import socket
import threading

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address
from edgelaunch.serve.http.api_error import ApiError, error_answer

__all__ = ["HttpServer", "listen_at"]

BACKLOG = 1024
KEEP_ALIVE_S = 75
FORCED_S = 3.0
"""For ending once nothing is waited for any longer."""


def listen_at(address: Address) -> socket.socket:
    """Port 0: any that is free. Raises UserError where nothing can listen there."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UserError(f"nothing can listen at {address}: {error.strerror}: choose another --port or --bind") from None
    return listener


class _Protocol(HttpToolsProtocol):
    """What is not HTTP is refused in the same shape as any other request."""

    def send_400_response(self, msg: str) -> None:
        answer = error_answer(ApiError(400, msg))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {answer.media_type}\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(answer.body)}\r\n\r\n".encode() + bytes(answer.body))
        self.transport.close()


class HttpServer:
    def __init__(self, app: ASGIApp, listener: socket.socket, grace_s: float) -> None:
        """`grace_s`: for requests that are under way at the end."""
        self._listener, self._grace_s = listener, grace_s
        self._server = uvicorn.Server(uvicorn.Config(
            app, loop="asyncio", http=_Protocol, ws="none", lifespan="off", log_config=None, log_level="error",
            access_log=False,
            server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(grace_s)),
        ))  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self.error: BaseException | None = None
        """Why it ended by itself."""

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Takes no more requests, and waits for those that are under way, up to the limit."""
        self._server.should_exit = True
        self._thread.join(self._grace_s + FORCED_S)
        self.force()

    def force(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(FORCED_S)

    def _run(self) -> None:
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a damaged form is its sender's
        try:
            self._server.run(sockets=[self._listener])
        except BaseException as error:
            self.error = error
