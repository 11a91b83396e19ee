"""Starts the ranks of `--local` as forks of a parent that has imported torch once (Linux).

Two ranks that import torch side by side take two cores for more than a second each; a fork has it at once, and shares
its pages. Only a process of one thread may fork, so all ranks are forked before the parent starts to watch them; one
that is started again later is a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import IO, NoReturn

from edgecompile.contract.errors import UserError

__all__ = ["ForkServer", "Forked", "check_beside"]

POLL_S = 0.01
UNCHECKED = "the check of the shards' hashes ended early: start edgelaunch again"


class Forked:
    """A child of this process, as far as subprocess.Popen is needed for one."""

    def __init__(self, pid: int, stdout: IO[bytes] | None) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        """Minus the signal's number where one ended it."""
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(POLL_S)
        return code

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with self._lock:
            if self.returncode is None:
                os.kill(self.pid, number)


class ForkServer:
    """Forks ranks from this process, which has imported what they need and has no other thread."""

    def __init__(self, run: Callable[[Sequence[str]], NoReturn]) -> None:
        """`run`: in the child, the command `edgelaunch WORDS`; ends the process."""
        self._run_command = run

    def fork(self, words: Sequence[str], keep: Collection[int], *, show: bool) -> Forked:
        """A child that runs `edgelaunch WORDS`, with its own session.

        Args:
            keep: the file descriptors that it has besides the standard ones.
            show: whether it shares standard input and output; else the latter is a pipe of the result, `stdout`.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        ours, theirs = os.pipe() if not show else (-1, -1)
        pid = os.fork()
        if not pid:
            try:
                os.setsid()
                _take_over(theirs, keep)
                self._run(words)
            except KeyboardInterrupt:  # by its parent, before it had begun
                os._exit(130)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        if show:
            return Forked(pid, None)
        os.close(theirs)
        return Forked(pid, os.fdopen(ours, "rb"))

    def _run(self, words: Sequence[str]) -> NoReturn:
        _show_words(["edgelaunch", *words])
        for variable in ("RANK", "WORLD_SIZE"):
            os.environ.pop(variable, None)
        self._run_command(words)


def check_beside(check: Callable[[], object], imports: Callable[[], object]) -> None:
    """Imports while a child checks; raises the UserError that the check raised."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's own thread would not outlive the fork
    checking = _in_a_child(check)
    imports()
    checking()


def _in_a_child(check: Callable[[], object]) -> Callable[[], None]:
    """Begins a check in a process of its own, since a thread would keep Python from the imports now and then.

    Returns what waits for its end, and raises the UserError that it raised.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.write(theirs, _complaint(check).encode())
            code = 0
        finally:  # whatever happens: the rest of the program is its parent's
            os._exit(code)
    os.close(theirs)

    def wait() -> None:
        with os.fdopen(ours, "rb") as pipe:
            said = pipe.read().decode()
        if os.waitpid(pid, 0)[1] or said:
            raise UserError(said or UNCHECKED)

    return wait


def _complaint(check: Callable[[], object]) -> str:
    """What the check found wrong, else nothing."""
    try:
        check()
    except UserError as error:
        return str(error)
    except KeyboardInterrupt:  # of the parent too, which says so
        return "interrupted"
    except Exception:
        sys.excepthook(*sys.exc_info())
        return UNCHECKED
    return ""


def _take_over(output: int, keep: Collection[int]) -> None:
    """Standard streams for a child that shares no terminal; closes what else it was given, such as others' channels."""
    if output >= 0:
        silence = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((silence, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the folder's own, closed since
                os.close(int(name))


def _show_words(words: Sequence[str]) -> None:
    """Writes them over the command line that ps and /proc show, as many as there is room for."""
    try:
        fields = (
            Path("/proc/self/stat").read_text(encoding="utf-8", errors="surrogateescape").rpartition(")")[2].split()
        )
        begin, end = int(fields[45]), int(fields[46])
    except (OSError, ValueError, IndexError):
        return
    text = b""
    for word in words:
        longer = text + os.fsencode(word) + b"\0"
        if len(longer) > end - begin:
            break
        text = longer
    if text:
        ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)
