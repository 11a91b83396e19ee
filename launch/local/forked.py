"""Starts the ranks of `--local` as forks of a parent that has imported torch once (Linux).

Two ranks that import torch side by side take two cores for more than a second each; a fork has it at once, and shares
its pages. Only a process of one thread may fork, so all ranks are forked before the parent starts to watch them, and
one more process with them: the spare, which forks those that are started again later.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import IO, NoReturn

from edgecompile.contract.errors import UserError

__all__ = ["ForkServer", "Forked", "Spare", "adopt_orphans", "check_beside", "leave_orphans"]

POLL_S = 0.01
ADOPT_ORPHANS, DOES_ADOPT = 36, 37
"""PR_SET_CHILD_SUBREAPER: whose parent has ended becomes this process's child; and PR_GET_CHILD_SUBREAPER."""
_ADOPTERS: list[bool] = []
"""An entry for each that needs it now; the first: whether the process did so already."""
_ADOPTING = threading.Lock()
MOST_BYTES, MOST_FILES = 1 << 16, 8
FILES_FROM = 512
"""Above the numbers that a rank's words name."""
ANSWER_S = 5.0
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

    def __init__(
        self, run: Callable[[Sequence[str]], NoReturn], again: Callable[[Sequence[str]], NoReturn] | None = None
    ) -> None:
        """`run`: in the child, the command `edgelaunch WORDS`; ends the process. `again`: of a rank that is started
        again, later."""
        self._run_command, self._again = run, again or run

    def spare(self) -> Spare | None:
        """A process that forks ranks later, once this one has threads; None where the system does not allow it."""
        if not adopt_orphans():
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if not pid:
            try:
                os.setsid()
                silence = os.open(os.devnull, os.O_WRONLY)
                _take_over(silence, (theirs.fileno(),))
                self.serve(theirs)
            finally:
                os._exit(0)
        theirs.close()
        return Spare(ours)

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

    def _run(self, words: Sequence[str], *, again: bool = False) -> NoReturn:
        _show_words(["edgelaunch", *words])
        for variable in ("RANK", "WORLD_SIZE"):
            os.environ.pop(variable, None)
        (self._again if again else self._run_command)(words)

    def serve(self, channel: socket.socket) -> None:
        """In the spare: forks what is asked for, until the parent is gone, whose children they become."""
        while True:
            asked, received, _, _ = socket.recv_fds(channel, MOST_BYTES, MOST_FILES)
            if not asked:
                return
            words, keep = json.loads(asked)
            ours, theirs = os.pipe()
            middle = os.fork()
            if not middle:
                pid = os.fork()
                if pid:  # its parent ends, so that the spare's parent adopts it
                    os.write(theirs, str(pid).encode())
                    os._exit(0)
                channel.detach()
                self._become(words, keep, received)
            os.close(theirs)
            with os.fdopen(ours, "rb") as pipe:
                pid_text = pipe.read()
            os.waitpid(middle, 0)
            for number in received:
                os.close(number)
            channel.send(pid_text)

    def _become(self, words: Sequence[str], keep: Sequence[int], received: Sequence[int]) -> NoReturn:
        """A rank, with the files under the numbers that its words name; the first one received is its output."""
        try:
            os.setsid()
            output, *others = (fcntl.fcntl(number, fcntl.F_DUPFD, FILES_FROM) for number in received)
            for number, wanted in zip(others, keep, strict=True):
                os.dup2(number, wanted)
            _take_over(output, keep)
            self._run(words, again=True)
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)


def adopt_orphans() -> bool:
    """From now on descendants whose parent has ended are this process's children; False: the system has no such way."""
    if sys.platform != "linux":
        return False
    libc, given = ctypes.CDLL(None), ctypes.c_int(0)
    with _ADOPTING:
        if not _ADOPTERS:
            libc.prctl(DOES_ADOPT, ctypes.byref(given), 0, 0, 0)
        if libc.prctl(ADOPT_ORPHANS, 1, 0, 0, 0):
            return False
        _ADOPTERS.append(bool(given.value))
    return True


def leave_orphans() -> None:
    """Once for each time that `adopt_orphans` was true: after the last one all is as it was before the first."""
    with _ADOPTING:
        before = _ADOPTERS.pop()
        if not _ADOPTERS and not before:
            ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 0, 0, 0, 0)


class Spare:
    """The parent's end of the process that forks ranks for it. Used under its owner's lock."""

    def __init__(self, channel: socket.socket, answer_s: float = ANSWER_S) -> None:
        """`answer_s`: how long it may take to fork, its own beginning included."""
        channel.settimeout(answer_s)
        self._channel = channel

    def fork(self, words: Sequence[str], keep: Sequence[int]) -> Forked | None:
        """As ForkServer.fork, of a rank that shows nothing; None: it cannot, now or ever."""
        ours, theirs = os.pipe()
        try:
            socket.send_fds(self._channel, [json.dumps([list(words), list(keep)]).encode()], [theirs, *keep])
            pid = int(self._channel.recv(64))
        except (OSError, ValueError):
            os.close(ours)
            self.close()
            return None
        finally:
            os.close(theirs)
        return Forked(pid, os.fdopen(ours, "rb"))

    def close(self) -> None:
        """It ends."""
        self._channel.close()


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
