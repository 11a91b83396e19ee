"""Writes whole lines to standard error from any thread."""

from __future__ import annotations

import sys

__all__ = ["say", "say_error"]


def say(text: str) -> None:
    """`print` writes the end of the line by itself: another thread's line comes between, or the process's end."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def say_error(message: str) -> None:
    """What ends the command, in one line."""
    say(f"edgelaunch: error: {' '.join(message.split())}")
