"""One whole line to standard error, whichever thread it comes from."""

from __future__ import annotations

import sys

__all__ = ["say"]


def say(text: str) -> None:
    """`print` writes the end of the line by itself: another thread's line comes between, or the process's end."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
