"""Ends a rank's process when the parent that started it is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

__all__ = ["TERMINATE_S", "watch_parent"]

TERMINATE_S = 2.0


def watch_parent(descriptor: int) -> socket.socket:
    """In a child: ends this process when the parent is gone. Returns the channel to report a failure through."""
    channel = socket.socket(fileno=descriptor)

    def watch() -> None:
        with contextlib.suppress(OSError):
            channel.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)  # the main thread removes what is half-written
        time.sleep(TERMINATE_S)
        os._exit(130)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()
    return channel
