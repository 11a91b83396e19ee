"""The memory allocator as a rank sets it: what a run frees stays for the next one. glibc alone is touched."""

from __future__ import annotations

import ctypes

__all__ = ["give_back", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""malloc.h of glibc."""
_NEVER_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """From now on; otherwise every run pays for mapping and zeroing its pages again, which no rank does."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, _NEVER_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES)


def give_back() -> None:
    """Returns to the system what is free."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
