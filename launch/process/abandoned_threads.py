"""Threads that were abandoned while they wait in C++; the interpreter's exit waits for them briefly."""

from __future__ import annotations

import atexit
import threading
import time

__all__ = ["await_at_exit"]

EXIT_S = 20.0

_threads: list[threading.Thread] = []
_lock = threading.Lock()


def await_at_exit(thread: threading.Thread) -> None:
    """For a daemon thread that calls torch: one that comes back from C++ once the interpreter has ended is unwound
    through it, which aborts the process."""
    with _lock:
        _threads[:] = [other for other in _threads if other.is_alive()]
        _threads.append(thread)


@atexit.register
def _await() -> None:
    deadline = time.monotonic() + EXIT_S
    for thread in _threads:
        if thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
