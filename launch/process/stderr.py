"""Writes whole lines to standard error from any thread, as --log-level and --log-json say."""

from __future__ import annotations

import logging
from typing import Any

from edgecompile.terminal.logs import tell

__all__ = ["say", "say_error", "say_last"]


def say(text: str, *, level: int = logging.INFO, about: str = "", event: str = "message", **fields: Any) -> None:
    """`about`: who says it, to stand before the text; `fields`: what a log in JSON has of the event."""
    tell(text, level=level, about=about, event=event, **fields)


def say_error(message: str, *, trace: str = "", **fields: Any) -> None:
    """What ends the command, in one line."""
    tell(" ".join(message.split()), level=logging.ERROR, about="edgelaunch", event="failed", trace=trace, **fields)


def say_last(message: str, *, event: str, **fields: Any) -> None:
    """How the command ends where it has not failed itself; among lines with a level an error."""
    tell(message, level=logging.ERROR, about="edgelaunch", event=event, **fields)
