"""The HTTP server in a thread of its own: the main thread stays free to hear signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from edgelaunch.serve.http.guarded_protocol import protocol_for

__all__ = ["HttpServer"]

KEEP_ALIVE_S = 75
FORCED_S = 3.0
"""For ending once nothing is waited for any longer."""
LEAST_GRACE_S = 0.3
"""The listener must be closed first, so that nothing comes after."""
AGAIN_S = 1.5
"""Until a request that has not ended when it was told to is told again."""


class _Server(uvicorn.Server):
    loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


class HttpServer:
    def __init__(self, app: ASGIApp, listener: socket.socket, grace_s: float, most_connections: int) -> None:
        """`grace_s`: for requests that are under way at the end."""
        self._listener, self._grace_s = listener, grace_s
        self._server = _Server(uvicorn.Config(
            app, loop="auto", http=protocol_for(most_connections), ws="none", lifespan="off",
            log_config=None, log_level="error", access_log=False,
            server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(grace_s + 2 * FORCED_S),  # never: `stop` is earlier
        ))  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._num_cut_off = 0
        self.error: BaseException | None = None
        """Why it ended by itself."""

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> int:
        """Takes no more requests, and waits for those that are under way, up to the limit.

        Returns:
            How many had no end by then: they are told so.
        """
        self._server.should_exit = True
        self._thread.join(max(LEAST_GRACE_S, self._grace_s))
        if self._thread.is_alive() and self._server.loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                self._server.loop.call_soon_threadsafe(self._cut_off, True)
            self._thread.join(FORCED_S)
        self.force()
        return self._num_cut_off

    def force(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(FORCED_S)

    def _cut_off(self, first: bool) -> None:
        """In the event loop: the application answers them."""
        tasks = [task for task in self._server.server_state.tasks if not task.done()]
        self._num_cut_off += len(tasks) if first else 0
        for task in tasks:
            task.cancel()
        if tasks:
            asyncio.get_running_loop().call_later(AGAIN_S, self._cut_off, False)

    def _run(self) -> None:
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a damaged form is its sender's
        try:
            self._server.run(sockets=[self._listener])
        except BaseException as error:
            self.error = error
