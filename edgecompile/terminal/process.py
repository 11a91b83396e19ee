"""A command's process: output that nobody reads any more, and Ctrl-C while libraries are imported.

Imports nothing but the standard library, and little of that: every command begins with it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = [
    "CLOSED_PIPE",
    "abrupt_interrupts",
    "at_interrupt",
    "begin",
    "closed_output",
    "final_status",
    "tell_reader_left",
]

INTERRUPTED, CLOSED_PIPE = 130, 141
"""Exit statuses as a shell has them: 128 plus SIGINT, 128 plus SIGPIPE."""


class _Tolerant:
    """A text stream whose reader may go (`| head`): what cannot be written is dropped, and work goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.reader_left = False

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        """What is buffered, and what processes started from here on write, goes nowhere."""
        self.reader_left = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


def begin(command: str) -> None:
    """For the first line of a command: Ctrl-C is one line from now on, and a closed pipe stops nothing."""
    _Command.name = command
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Tolerant):
            setattr(sys, name, _Tolerant(stream))


def closed_output() -> bool:
    """Whether standard output's reader has gone."""
    return bool(getattr(sys.stdout, "reader_left", False))


def tell_reader_left() -> None:
    """Another process of this command found standard output's reader gone."""
    if isinstance(sys.stdout, _Tolerant):
        sys.stdout.reader_left = True


def final_status(status: int) -> int:
    """The command's exit status: 141 for one that did its work while nobody read what it printed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return CLOSED_PIPE if status == 0 and closed_output() else status


class _Command:
    name = ""
    last_words: Callable[[], object] | None = None


def at_interrupt(last_words: Callable[[], object] | None) -> None:
    """What is printed of the work so far where Ctrl-C ends the process at once; None: nothing any more."""
    _Command.last_words = last_words


@contextmanager
def abrupt_interrupts() -> Iterator[None]:
    """While nothing is under way that must be put in order: Ctrl-C ends the process at once, in one line.

    Libraries, while they are imported, swallow KeyboardInterrupt or turn it into an error of their own. In a program
    that is no command of ours, nothing changes.
    """
    try:
        if not _Command.name:
            raise ValueError
        before = signal.getsignal(signal.SIGINT)
        if before is signal.SIG_IGN:  # a shell's background job
            raise ValueError
        signal.signal(signal.SIGINT, _end)
    except ValueError:  # also in another thread than the main one, which gets no signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(signum: int, frame: object) -> None:
    show_cursor = "\x1b[?25h\r\x1b[2K" if os.isatty(2) else ""  # a status line hides it
    os.write(2, f"{show_cursor}{_Command.name or 'edgecompile'}: interrupted\n".encode())
    if _Command.last_words is not None:
        with suppress(Exception):
            _Command.last_words()
        final_status(INTERRUPTED)
    os._exit(INTERRUPTED)
