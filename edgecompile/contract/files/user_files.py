"""Reads the user's files within size limits, and refuses to overwrite them by mistake. Imports no torch."""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecompile.contract.errors import UserError

__all__ = [
    "check_ours",
    "check_overwrite",
    "check_regular",
    "check_utf8",
    "is_same_file",
    "print_anything",
    "printable",
    "read_text",
]

SAY_AFTER_S = 1.0
BEGINNING = 4096
"""So many bytes tell whose file it is."""


def read_text(path: Path, *, what: str, max_bytes: int, hint: str = "") -> str:
    """The whole of a UTF-8 text file, without a byte order mark, with `\\n` as line ends.

    A pipe is read to its end; where that takes a while, a line says so.

    Raises:
        UserError: the file cannot be read, holds more than `max_bytes`, or is not UTF-8 text.
    """
    ending = f": {hint}" if hint else ""
    try:
        with _waiting(path), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # a pipe and a device have no size: they are read until there is too much
            data = file.read(max_bytes + 1) if size <= max_bytes else b""
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}{ending}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read this {what}: {error.strerror}") from None
    if size > max_bytes:
        raise UserError(f"{path}: {size} bytes is too large for a {what} (at most {max_bytes})")
    if len(data) > max_bytes:
        raise UserError(f"{path}: too large for a {what} (at most {max_bytes} bytes)")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a {what}: byte {error.start} is not UTF-8 text{ending}") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def _waiting(path: Path) -> Iterator[None]:
    """Opening a pipe waits for its writer, and reading it for its end: says so, once, where that takes a while."""
    if not stat.S_ISFIFO(path.stat().st_mode):
        yield
        return
    text = f"{path} is a pipe: waiting until all of it has been written"
    timer = threading.Timer(SAY_AFTER_S, lambda: logging.getLogger("edgecompile").warning(text))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_regular(path: Path, what: str, fix: str) -> None:
    """For files that are read more than once.

    Raises:
        UserError: the path is a pipe, a device or a socket; what is missing is for others to name.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
             (stat.S_ISSOCK, "a socket"))  # fmt: skip
    for holds, name in kinds:
        if holds(mode):
            raise UserError(f"{path}: is {name}, and {what} is a file: {fix}")


def is_same_file(first: Path, second: Path) -> bool:
    """Whether both names lead to one file, through links of either kind, or would once there is one."""
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        pass
    try:
        return first.resolve() == second.resolve()
    except (OSError, RuntimeError, ValueError):  # a link that leads to itself
        return False


def check_overwrite(path: Path, key: str, others: Iterable[tuple[Path, str]]) -> None:
    """Before anything is written to `path`.

    Args:
        key: what names the path: `--output`.
        others: files that are read, or written as well, each with what it is.

    Raises:
        UserError: `path` is one of them, under whatever name, or is not a regular file.
    """
    for other, what in others:
        if is_same_file(path, other):
            raise UserError(f"{path}: {key} would overwrite {what}: name another file")
    check_regular(path, key, "name a file that may be overwritten")


def check_ours(path: Path, pattern: str, what: str, fix: str) -> None:
    """Before a file is overwritten that no option names.

    Args:
        pattern: what the beginning of our own files matches; an empty file may be overwritten.

    Raises:
        UserError: a file of another kind is there, or a folder.
    """
    if not os.path.lexists(path):
        return
    try:
        with open(path, "rb") as file:
            beginning = file.read(BEGINNING)
    except FileNotFoundError:  # a link to nothing: what is renamed over it overwrites nothing
        return
    except OSError as error:
        raise UserError(f"{path}: {what} would be written here: {error.strerror}: {fix}") from None
    if beginning and not re.search(pattern, beginning.decode("utf-8", "replace"), re.MULTILINE | re.DOTALL):
        raise UserError(f"{path}: is not a {what}, and would be overwritten: move it away, or {fix}")


def printable(text: str) -> str:
    """The text with `\\xe9` for a byte of a file's name that is not UTF-8, and `\\ud83d` for half of a pair.

    Such text can be neither printed nor written as UTF-8.
    """
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def check_utf8(path: Path, what: str) -> None:
    """Raises UserError where a path is not UTF-8: torch, safetensors and tokenizers open no such files."""
    full = str(path.absolute())
    if printable(full) != full:
        raise UserError(f"{printable(full)}: {what} has a name that is not UTF-8, which torch cannot open: rename it")


def print_anything() -> None:
    """Once, when a command starts: standard output takes what it cannot show as `\\xe9`, as standard error does."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # a test's stand-in has none
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
