"""The memory of this process, as the kernel counts it. Linux; elsewhere nothing is known."""

from __future__ import annotations

from pathlib import Path

__all__ = ["own_memory"]

STATUS = Path("/proc/self/status")


def own_memory() -> tuple[int, int]:
    """Bytes: what no file backs, which is what plans predict; and all that is resident. Zeros where it is unknown."""
    try:
        lines = STATUS.read_bytes().splitlines()
    except OSError:
        return 0, 0
    found = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(b":") for line in lines)
             if name in (b"RssAnon", b"VmRSS")}  # fmt: skip
    return found.get(b"RssAnon", 0), found.get(b"VmRSS", 0)
