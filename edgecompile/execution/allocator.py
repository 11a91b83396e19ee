"""The memory allocator as a rank's launcher sets it: what a run frees stays for the next one. glibc alone is touched.

The launcher has its own (launch/common/allocator.py), since neither package imports the other; a test compares the two.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

__all__ = ["give_back", "keep_freed_memory", "restart_as_ranks_start", "use_one_arena"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""malloc.h of glibc."""
NEVER_BYTES = 1 << 30
VARIABLE = "GLIBC_TUNABLES"
TUNABLES = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
RESTARTED = "EDGELAUNCH_RESTARTED"
"""Set for a program that was started again, and taken away there: what it starts itself never has it."""


def restart_as_ranks_start() -> None:
    """Starts this program again, in this very process, where its environment lacks what a rank's has.

    Where that is refused, or the variable is lost on the way, it goes on as it is, and so does a rank there.
    """
    restarted = os.environ.pop(RESTARTED, None) is not None
    given = os.environ.get(VARIABLE, "")
    tuned = "glibc.malloc." in given or any(name.startswith("MALLOC_") for name in os.environ)
    if _glibc() is not None and not tuned and sys.executable and not restarted:
        tunables = f"{given}:{TUNABLES}" if given else TUNABLES
        environ = {**os.environ, VARIABLE: tunables, RESTARTED: "1"}
        with contextlib.suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606 - our own words


def use_one_arena() -> None:
    """All threads allocate from one heap; before any thread is started."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """From now on; otherwise every run pays for mapping and zeroing its pages again, which no rank does."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
        libc.mallopt(M_MMAP_THRESHOLD, NEVER_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER_BYTES)


def give_back() -> None:
    """Returns to the system what is free."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
