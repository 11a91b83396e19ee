"""Sets the memory allocator (glibc) for processes that run shards, here and when measuring.

Imports no torch; glibc alone is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Mapping

__all__ = [
    "give_back",
    "heap_environment",
    "keep_freed_memory",
    "large_blocks_apart",
    "restart_with_heap_environment",
    "use_one_arena",
    "while_freed_memory_is_kept",
]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""malloc.h of glibc."""
NEVER_BYTES = 1 << 30
APART_BYTES = 1 << 17
WARM_BYTES = 1 << 25
"""Where glibc's own threshold comes to rest in a program that frees large blocks; it trims from twice that on."""
VARIABLE = "GLIBC_TUNABLES"
TUNABLES = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
RESTARTED = "EDGELAUNCH_RESTARTED"
"""Set for a program that was started again, and taken away there: what it starts itself never has it."""


def heap_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a rank's process must find in its environment; empty where nothing is to be added, or the user tunes malloc.

    glibc before 2.38 cuts a sliver off every aligned block and keeps it in a cache of small blocks, so that a freed
    tensor's place is too small for the next tensor of that size (its bug 14581): the heap grows to several times what
    is alive, and on. Without these caches the sliver joins the block again. No call sets this, only the environment.
    """
    given = environ.get(VARIABLE, "")
    if _glibc() is None or "glibc.malloc." in given or any(name.startswith("MALLOC_") for name in environ):
        return {}
    return {VARIABLE: f"{given}:{TUNABLES}" if given else TUNABLES}


def restart_with_heap_environment() -> None:
    """Starts this program again, in the same process, where its environment lacks something; early, it costs 50 ms.

    Where that is refused, by seccomp, a file system without exec or a sandbox, it continues as it is, with a heap that
    grows. So it does where the variable was lost on the way: glibc drops it for a Python with capabilities, or a script
    that stands for Python may.
    """
    restarted = os.environ.pop(RESTARTED, None) is not None
    added = heap_environment(os.environ)
    if added and sys.executable and not restarted:
        environ = {**os.environ, **added, RESTARTED: "1"}
        with contextlib.suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606


def use_one_arena() -> bool:
    """All threads allocate from one heap, which can grow as a whole; before any thread is started.

    A thread's own heaps are 64 MB each, and a tensor that does not fit is mapped again at each allocation.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(M_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """From now on what is freed stays in the process for the next allocation. After the shard is loaded.

    By default glibc gives large blocks back at once, and every microbatch has all its pages mapped and zeroed again:
    6,900 page faults and 5 % of the time of half a vit_base at microbatch 1, 9 % in a thread that is not the main one.
    What loading freed is given back first. False where this is not glibc: then nothing is changed.
    """
    libc = _glibc()
    if libc is None:
        return False
    libc.malloc_trim(0)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, NEVER_BYTES)) and bool(libc.mallopt(M_TRIM_THRESHOLD, NEVER_BYTES))


@contextlib.contextmanager
def while_freed_memory_is_kept() -> Iterator[None]:
    """For a measurement in a program that does other things too, which afterwards gives freed memory back again."""
    keep_freed_memory()
    try:
        yield
    finally:
        libc = _glibc()
        if libc is not None:
            libc.mallopt(M_MMAP_THRESHOLD, WARM_BYTES)
            libc.mallopt(M_TRIM_THRESHOLD, 2 * WARM_BYTES)
            libc.malloc_trim(0)


def give_back() -> None:
    """Returns to the system what is free."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextlib.contextmanager
def large_blocks_apart() -> Iterator[None]:
    """While weights are loaded or rearranged: what is freed of them goes back at once, and leaves no holes in the heap.

    Afterwards freed memory is kept again, or for the first time.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, APART_BYTES)
    try:
        yield
    finally:
        keep_freed_memory()


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
