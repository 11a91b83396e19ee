"""Starts, watches and ends all ranks on this machine (`--local`). Imports no torch."""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import IO

from edgecompile.contract.plan import Plan
from edgecompile.execution.allocator import heap_environment
from edgecompile.terminal.process import CLOSED_PIPE, tell_reader_left
from edgelaunch.common.failures import EXIT_CODES, Failure, FailureKind, rank_name
from edgelaunch.common.reports import KillRequest, read_report
from edgelaunch.local.forked import Forked, ForkServer, Spare, adopt_orphans, leave_orphans
from edgelaunch.local.placement import OnLoopback, RankPlacement, listen_on_loopback
from edgelaunch.local.restarts import Restarts, restart_line
from edgelaunch.local.watch_parent import TERMINATE_S
from edgelaunch.request.links_request import LinksRequest
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.serve_request import ServeRequest
from edgelaunch.request.start_request import DEFAULT_RESTARTS
from edgelaunch.request.started_rank import request_of_rank

__all__ = ["Children", "LocalRun"]

LAST_WORDS_S = 4.0
"""How long the other ranks may take to end by themselves once one has failed."""
SERVICE_ENDS_S = 15.0
"""Beyond the time that a service has for what is under way: for ending the run."""
BEGIN_S = 120.0
"""For importing torch, on a slow board."""
PIECE = 1 << 16
ROOM = "-" * 2048
"""In a command line, for the words of the ranks that are forked from it."""
WELL = (0, CLOSED_PIPE)
"""Statuses of a rank that did its work; the second where its output pipe was closed."""
SAYS_WHY = (EXIT_CODES[FailureKind.LOST], EXIT_CODES[FailureKind.LEFT])
"""Statuses of a child whose report says why."""


@dataclass
class Child:
    rank: int
    process: subprocess.Popen[bytes] | Forked
    channel: socket.socket
    """Its other end tells the child, by closing, that the parent is gone."""
    threads: list[threading.Thread] = field(default_factory=list)
    told_to_end: bool = False
    report: Failure | None = None

    @property
    def leaves_others(self) -> bool:
        """Whether it ended in a way that ends no run: it was told to stop, or came after the last result."""
        return self.report is not None and self.report.kind in (FailureKind.LEFT, FailureKind.LATE)

    @property
    def code(self) -> int:
        """The status that it ended with, as of the last look; 0 also while it runs."""
        return self.process.returncode or 0


class Children:
    """Rank processes on this machine: starts them, relays what they print, keeps the failures that they report."""

    def __init__(
        self,
        plan: Plan,
        request: RunRequest | LinksRequest | ServeRequest,
        place: RankPlacement,
        *,
        restarts: int = DEFAULT_RESTARTS,
        environ: Mapping[str, str] | None = None,
        relay: Callable[[str, str], None] | None = None,
        web: socket.socket | None = None,
    ) -> None:
        """`request`: of the command that starts them. `environ`: more variables for them. `web`: of rank 0's page.

        `relay`: takes what they print, with "out" or "err" before it; None: all goes to standard error.

        `restarts`: how often each rank but 0 is started again after it was killed or lost.
        """
        self._plan, self._request, self._place = plan, request, place
        self._environ, self._relay_to, self._web = dict(environ or {}), relay, web
        self._children: list[Child] = []
        self._reports: list[Failure] = []
        self._restarts = Restarts(plan, restarts)
        self.spare: Spare | None = None
        """Forks the ranks that are started again, if there is one."""
        self._spare_process: subprocess.Popen[bytes] | None = None
        self._adopts = False
        self._lock = threading.RLock()

    def start(
        self,
        rank: int,
        *,
        listen_fd: int | None = None,
        show: bool = False,
        fork_server: ForkServer | None = None,
    ) -> None:
        """`show`: the child has this terminal and standard input; otherwise its lines are relayed to stderr.

        `listen_fd`: the socket that rank 0 takes over. `fork_server`: where it is forked from; `follow` is to be called
        once all are.
        """
        ours, theirs = socket.socketpair()
        settings, channel = self._place.settings(rank), theirs.fileno()
        web_fd = self._web.fileno() if self._web is not None and not rank else None
        http_fd = self._request.http_fd if isinstance(self._request, ServeRequest) and rank == 0 else None
        given = {"supervisor_fd": channel, "listen_fd": listen_fd, "web_fd": web_fd}
        words = request_of_rank(self._request, rank, settings, **given).words()
        keep = tuple(number for number in (*given.values(), http_fd) if number is not None)
        if fork_server is not None:
            process: Forked | subprocess.Popen[bytes] = fork_server.fork(words, keep, show=show)
        elif self.spare is not None and (forked := self.spare.fork(words, keep)) is not None:
            process = forked
        else:
            process = self._spawn([*self._place.prefix(rank), sys.executable, "-m", "edgelaunch", *words], keep, show)
        theirs.close()
        self._children.append(Child(rank, process, ours))
        if fork_server is None:
            self.follow()

    def begin_spare(self) -> None:
        """A process that imports what ranks need, and forks all that are started from now on."""
        if not adopt_orphans():
            return
        self._adopts = True
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [str(self._request.plan_path), str(theirs.fileno()), ROOM]
        command = [sys.executable, "-m", "edgelaunch.commands.spare_process", *words]
        self._spare_process = self._spawn(command, (theirs.fileno(),), show=False)
        theirs.close()
        self.spare = Spare(ours, BEGIN_S)

    def _spawn(self, command: Sequence[str], keep: Sequence[int], show: bool) -> subprocess.Popen[bytes]:
        environ = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
        if "" not in sys.path and os.getcwd() not in sys.path:
            environ["PYTHONSAFEPATH"] = "1"  # a folder called torch in the user's folder must not be taken for torch
        environ |= heap_environment(environ) | self._environ
        output = None if show else subprocess.PIPE
        errors = None if show else subprocess.PIPE if self._relay_to is not None else subprocess.STDOUT
        # a session of its own: Ctrl-C reaches the parent alone, which ends the ranks in order
        return subprocess.Popen(
            command, stdin=None if show else subprocess.DEVNULL, stdout=output, stderr=errors,
            env=environ, pass_fds=keep, start_new_session=True,
        )  # fmt: skip

    def follow(self) -> None:
        """Starts the missing threads that read the ranks' messages."""
        for child in self._children:
            if child.threads:
                continue
            errors = getattr(child.process, "stderr", None)
            pipes = [("out", child.process.stdout), *([("err", errors)] if errors is not None else [])]
            works = [partial(self._read_reports, child), *(partial(self._relay, *pipe) for pipe in pipes)]
            for work in works:
                thread = threading.Thread(target=work, daemon=True)
                thread.start()
                child.threads.append(thread)

    def outcome(self) -> Failure | None:
        """Waits until the run is complete (None), or a child has not ended well: then the first cause, and none runs.

        The data host ends well only with all results; a rank that was started again and is yet to join comes too late.
        """
        while not self.all_done():
            time.sleep(0.02)
            if any(child.rank == 0 and child.process.poll() in WELL for child in self._children):
                self.end(TERMINATE_S)
                break
            if (failure := self.first_failure()) is not None:
                # a broken connection alone is not a cause: that is yet to be reported, or seen
                self.end(LAST_WORDS_S if failure.kind is FailureKind.LOST else 0.0)
                self.drain(1.0)
                return self.first_failure()
        self.drain(1.0)
        if any(child.code == CLOSED_PIPE for child in self._children):
            tell_reader_left()
        return None

    def first_failure(self) -> Failure | None:
        """The cause, once a child has reported or ended badly; None while all is well.

        A rank that was killed or lost is started again here, while it may be.
        """
        with self._lock:
            return self._first_failure()

    def _first_failure(self) -> Failure | None:
        ended = [child for child in self._children if child.process.poll() not in (None, *WELL)]
        ended = [child for child in ended if not self._start_again(child) and not child.leaves_others]
        if not ended and not self._reports:
            return None
        if not self._reports:
            for thread in ended[0].threads:
                thread.join(0.5)
        for child in ended:
            if child.code < 0 and not child.told_to_end:
                return self._killed(child.rank, -child.code)
        for report in list(self._reports):
            if report.kind is not FailureKind.LOST:
                return report
        if self._reports:
            return self._reports[0]
        child = ended[0]
        message = f"{rank_name(self._plan, child.rank)} ended with status {child.code} and no error message"
        return Failure(rank=child.rank, kind=FailureKind.LOST, message=message)

    def _start_again(self, child: Child) -> bool:
        if child.code in SAYS_WHY:
            for thread in child.threads:
                thread.join(0.5)  # its report says why
        leader = next((other.process.poll() is None for other in self._children if other.rank == 0), True)
        reason = self._restarts.reason(child.rank, child.code, child.report) if leader else None
        if child.told_to_end or reason is None or self._place.why_killed(child.rank) is not None:
            return False
        if line := restart_line(self._request.log_form, self._plan, child.rank, reason):
            self._tell("err", line)
        self._children.remove(child)
        if child.report in self._reports:
            self._reports.remove(child.report)
        child.channel.close()
        self.start(child.rank)
        return True

    def all_done(self) -> bool:
        return all(child.process.poll() in WELL for child in self._children)

    def any_running(self) -> bool:
        return any(child.process.poll() is None for child in self._children)

    def pids(self) -> list[int]:
        return [child.process.pid for child in self._children]

    def drain(self, timeout_s: float) -> None:
        """Until the ended children's last lines are relayed."""
        deadline = time.monotonic() + timeout_s
        for child in self._children:
            for thread in child.threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def end(self, grace_s: float) -> None:
        """Ends every child: by itself within `grace_s`, else SIGTERM, else SIGKILL."""
        with self._lock:
            self._restarts.stop()
            self._end_spare()
        self._wait(grace_s)
        if isinstance(self._request, ServeRequest):
            self._end_service(self._request.grace + SERVICE_ENDS_S)
        for child in self._children:
            if child.process.poll() is None:
                child.told_to_end = True
                child.process.terminate()
        self._wait(TERMINATE_S)
        for child in self._children:
            if child.process.poll() is None:
                child.process.kill()
            child.process.wait()
            child.channel.close()
        if self._adopts:
            self._adopts = False
            leave_orphans()

    def _end_service(self, timeout_s: float) -> None:
        """Rank 0 alone is told: what it answers meanwhile needs the other ranks, which end with it."""
        for child in self._children:
            if child.rank == 0 and child.process.poll() is None:
                child.told_to_end = True
                child.process.terminate()
                deadline = time.monotonic() + timeout_s
                while child.process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                self._wait(TERMINATE_S)

    def _end_spare(self) -> None:
        if self.spare is not None:
            self.spare.close()
            self.spare = None
        if self._spare_process is not None:
            self._spare_process.kill()
            self._spare_process.communicate()
            self._spare_process = None

    def _wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.any_running() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _killed(self, rank: int, number: int) -> Failure:
        if (why := self._place.why_killed(rank)) is not None:
            return Failure(rank=rank, kind=FailureKind.USER, message=why)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        hint = ": the machine may be out of memory" if name == "SIGKILL" else ""
        message = f"{rank_name(self._plan, rank)} was killed by {name}{hint}"
        return Failure(rank=rank, kind=FailureKind.USER, message=message)

    def _read_reports(self, child: Child) -> None:
        with contextlib.suppress(OSError), child.channel.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                report = read_report(line)
                if isinstance(report, KillRequest):
                    self.kill(report)
                    continue
                child.report = report
                if not child.leaves_others:
                    self._reports.append(report)

    def kill(self, request: KillRequest) -> None:
        """A rank that fell silent, so that it is started again."""
        with self._lock:
            for child in self._children:
                if child.process.pid == request.process and self._restarts.left(request.rank):
                    child.process.kill()

    def _relay(self, stream: str, pipe: IO[bytes] | None) -> None:
        if self._relay_to is None:
            for line in pipe or ():
                self._tell(stream, line.decode("utf-8", "replace"))
            return
        pieces = codecs.iterdecode(iter(partial(pipe.read1, PIECE), b""), "utf-8", "replace")  # type: ignore[union-attr]
        for piece in pieces:  # of a line too: texts are shown as they come
            self._tell(stream, piece)

    def _tell(self, stream: str, text: str) -> None:
        if self._relay_to is not None:
            self._relay_to(stream, text)
            return
        sys.stderr.write(text)
        sys.stderr.flush()


class LocalRun:
    """All ranks of a plan, rank 0 included, as children."""

    def __init__(
        self,
        plan: Plan,
        request: RunRequest | LinksRequest,
        *,
        max_threads: int | None,
        restarts: int = DEFAULT_RESTARTS,
        forks: Callable[[], ForkServer] | None = None,
        web: socket.socket | None = None,
    ) -> None:
        """`request`, `restarts` and `web`: as of Children; `max_threads`: of each rank.

        `forks`: makes what the ranks are forked from; this process must have no other threads. None: each is started.
        """
        self._num_ranks, self._forks = len(plan.hosts), forks
        self.listener = listen_on_loopback()
        place = OnLoopback(plan, self.listener.getsockname()[1], max_threads)
        self.children = Children(plan, request, place, restarts=restarts, web=web)

    def run(self) -> Failure | None:
        """Until all ranks have ended well (None), or one has not: then the first cause, and none runs any longer.

        Raises:
            KeyboardInterrupt: passed on, after all ranks have been ended.
            UserError: with `forks`, a shard is missing or damaged.
        """
        try:
            fork_server = self._forks() if self._forks is not None else None
            if fork_server is not None:
                self.children.spare = fork_server.spare()
            for rank in range(self._num_ranks):
                listen_fd = self.listener.fileno() if rank == 0 else None
                self.children.start(rank, listen_fd=listen_fd, show=rank == 0, fork_server=fork_server)
            self.listener.close()
            self.children.follow()
            return self.children.outcome()
        finally:
            self.listener.close()
            self.children.end(0.0)
