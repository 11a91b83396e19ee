"""Keeps other cores busy with matrix products during a measurement, as other ranks would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["busy_cores"]

# Ends with its standard input, so that no process is left when the one that measures is killed.
_LOAD = """
import sys, threading, torch
torch.set_num_threads(1)
threading.Thread(target=lambda: (sys.stdin.read(), __import__("os")._exit(0)), daemon=True).start()
left, right, result = torch.rand(256, 1024), torch.rand(1024, 4096), torch.empty(256, 4096)
print("ready", flush=True)
while True:
    torch.mm(left, right, out=result)
"""


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """So many processes of one thread each multiply matrices until the context is left."""
    loads = [
        subprocess.Popen(
            [sys.executable, "-c", _LOAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        for _ in range(count)
    ]
    try:
        for load in loads:
            assert load.stdout is not None
            load.stdout.readline()
        yield
    finally:
        for load in loads:
            load.kill()
        for load in loads:
            load.communicate()
