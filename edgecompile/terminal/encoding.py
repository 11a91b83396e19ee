"""Prints and reads file names and text in any language, whatever the locale. Imports no torch."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

__all__ = ["restart_in_utf8"]


def restart_in_utf8() -> None:
    """Starts this program again in Python's UTF-8 mode where file names are in another encoding; for whole commands.

    That is so in the locale C with PYTHONUTF8=0, and in locales of ISO 8859. Python then stands for the bytes of a name
    by characters that Hydra's grammar, YAML, JSON and torch do not take. In UTF-8 mode a name of any bytes works. Where
    starting again is refused, names of ASCII do.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "utf-8" or sys.flags.utf8_mode or not sys.executable:
        return
    words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    with contextlib.suppress(OSError):
        os.execve(sys.executable, words, {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606 - our own words
