"""The HTTP server in a thread of its own: the main thread stays free to hear signals."""

from __future__ import annotations

import logging
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from edgelaunch.serve.http.guarded_protocol import protocol_for

__all__ = ["HttpServer"]

KEEP_ALIVE_S = 75
FORCED_S = 3.0
"""For ending once nothing is waited for any longer."""


class HttpServer:
    def __init__(self, app: ASGIApp, listener: socket.socket, grace_s: float, most_connections: int) -> None:
        """`grace_s`: for requests that are under way at the end."""
        self._listener, self._grace_s = listener, grace_s
        self._server = uvicorn.Server(uvicorn.Config(
            app, loop="auto", http=protocol_for(most_connections), ws="none", lifespan="off",
            log_config=None, log_level="error", access_log=False,
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
