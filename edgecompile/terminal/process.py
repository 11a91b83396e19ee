"""A command's process: closed output pipes, full disks, and Ctrl-C during imports.

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
    "end_at_next_signal",
    "final_status",
    "run_to_end",
    "tell_reader_left",
    "unwritten",
]

USER_ERROR, INTERRUPTED, CLOSED_PIPE = 2, 130, 141
"""Exit statuses as a shell has them: 128 plus SIGINT, 128 plus SIGPIPE."""


class _Tolerant:
    """A text stream whose reader may go (`| head`), or whose disk may be full: what cannot be written is dropped.

    Work continues, and the exit status tells.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.reader_left = False
        self.problem: str | None = None
        """Why something was not written, where that is not since the reader left."""

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError) -> None:
        """What is buffered, and what processes started from here on write, goes nowhere."""
        if isinstance(error, BrokenPipeError):
            self.reader_left = True
        else:
            self.problem = error.strerror or str(error)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


def begin(command: str) -> None:
    """For the first line of a command: Ctrl-C is one line from now on, and a closed pipe stops nothing."""
    _Command.name = command
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Tolerant):
            setattr(sys, name, _Tolerant(stream))


def _open_closed() -> None:
    """Standard streams that the caller closed (`>&-`) lead nowhere: a file opened next would get their numbers."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, "a lower number was free"
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def closed_output() -> bool:
    """Whether standard output's reader has gone."""
    return bool(getattr(sys.stdout, "reader_left", False))


def tell_reader_left() -> None:
    """Another process of this command found standard output's reader gone."""
    if isinstance(sys.stdout, _Tolerant):
        sys.stdout.reader_left = True


def final_status(status: int) -> int:
    """The command's exit status: 141 if its output pipe was closed before it ended; 2, with a message, if its output
    could not be written."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if status == 0 and (problem := unwritten()) is not None:
        print(f"{_Command.name or 'edgecompile'}: {problem}", file=sys.stderr)
        return USER_ERROR
    return CLOSED_PIPE if status == 0 and closed_output() else status


def unwritten() -> str | None:
    """What to say where standard output could not be written, as on a full disk."""
    problem = getattr(sys.stdout, "problem", None)
    return None if problem is None else f"standard output cannot be written: {problem}"


def run_to_end(body: Callable[[], int]) -> int:
    """A command's exit status, also where `--help` or `--version` end it."""
    try:
        return final_status(body())
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            raise
        return final_status(stop.code or 0)


class _Command:
    name = ""
    last_words: Callable[[], object] | None = None


def at_interrupt(last_words: Callable[[], object] | None) -> None:
    """What is printed of the work so far where Ctrl-C ends the process at once; None: no longer anything."""
    _Command.last_words = last_words


@contextmanager
def abrupt_interrupts() -> Iterator[None]:
    """While nothing is under way that must be put in order: Ctrl-C ends the process at once, in one line.

    Libraries, while they are imported, swallow KeyboardInterrupt or turn it into an error of their own. In a program
    that is not a command of ours, nothing changes.
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


def end_at_next_signal() -> None:
    """Once a signal has begun the end: whoever sends another one does not want to wait. Threads of libraries that are
    cut short by an exception would abort the process."""
    if not _Command.name:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if callable(signal.getsignal(number)):
            with suppress(ValueError):  # another thread than the main one
                signal.signal(number, _end)


def _end(signum: int, frame: object) -> None:
    show_cursor = "\x1b[?25h\r\x1b[2K" if os.isatty(2) else ""  # a status line hides it
    os.write(2, f"{show_cursor}{_Command.name or 'edgecompile'}: interrupted\n".encode())
    if _Command.last_words is not None:
        with suppress(Exception):
            _Command.last_words()
        final_status(INTERRUPTED)
    os._exit(INTERRUPTED)
