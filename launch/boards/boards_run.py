"""All ranks of a plan, each on its board, from one place; rank 0 in this terminal where it is ours."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.boards.across_machines import AcrossMachines
from edgelaunch.boards.agent_rank import RankElsewhere
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.local.local_run import LAST_WORDS_S, Children
from edgelaunch.request.links_request import LinksRequest
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.serve_request import ServeRequest

__all__ = ["BoardsRun"]

POLL_S = 0.05
PARTING_S = 10.0
"""Ranks end by themselves once rank 0 has all results."""


class BoardsRun:
    def __init__(
        self, plan: Plan, request: RunRequest | LinksRequest | ServeRequest,
        elsewhere: Sequence[RankElsewhere], here: AcrossMachines | None, *, capture: bool = False,
        web: socket.socket | None = None,
    ) -> None:  # fmt: skip
        """`elsewhere`: all ranks, but rank 0 where it is `here`. `capture`: keeps what rank 0 prints to `printed`.
        `web`: of the page of a rank 0 that is here."""
        self._elsewhere = {rank.order.rank: rank for rank in elsewhere}
        self._here = Children(plan, request, here, restarts=0, web=web) if here is not None else None
        self._ended: dict[int, Failure | None] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._capture, self._lock = capture, threading.Lock()
        self.printed: list[str] = []

    def run(self) -> Failure | None:
        """Until rank 0 has ended well (None), or a rank has not: then the first cause, and none runs any longer.

        Raises:
            UserError: a board cannot be given what it needs.
            KeyboardInterrupt: passed on, once all have ended.
        """
        self._all_at_once([rank.prepare for rank in self._elsewhere.values()])
        try:
            if self._here is not None:
                self._here.start(0, show=True)
            for number in self._elsewhere:
                thread = threading.Thread(target=self._follow, args=(number,), name=f"rank {number}", daemon=True)
                self._threads[number] = thread
                thread.start()
            failure = self._outcome()
            if failure is None:
                self._wait(PARTING_S)
            return failure
        finally:
            self._end()

    def _outcome(self) -> Failure | None:
        failed_s: float | None = None
        while not self._is_complete():
            failure = self._failure()
            if failure is not None:
                failed_s = failed_s or time.monotonic()
                # a rank tells the others why it ends: rank 0 may have the cause in better words
                if self._here is None or not self._here.any_running() or time.monotonic() > failed_s + LAST_WORDS_S:
                    return failure
            time.sleep(POLL_S)
        return None

    def _is_complete(self) -> bool:
        if self._here is not None:
            return self._here.all_done()
        with self._lock:
            return 0 in self._ended and self._ended[0] is None

    def _failure(self) -> Failure | None:
        """The first cause. A rank that was lost, or left, is the other ranks' to recover from."""
        if self._here is not None and (failure := self._here.first_failure()) is not None:
            return failure
        with self._lock:
            ended = dict(self._ended)
        if ended.get(0) is not None:
            return ended[0]
        recoverable = (FailureKind.LOST, FailureKind.LEFT, FailureKind.LATE)
        bad = [item for item in ended.values() if item is not None and item.kind not in recoverable]
        return bad[0] if bad else None

    def _follow(self, number: int) -> None:
        failure: Failure | None
        try:
            failure = self._elsewhere[number].run(partial(self._print, number))
        except Exception as error:
            failure = Failure.of(number, error)
        with self._lock:
            self._ended[number] = failure

    def _print(self, number: int, stream: str, text: str) -> None:
        with self._lock:
            if stream == "out" and number == 0:
                if self._capture:
                    self.printed.append(text)
                    return
                out = sys.stdout
            else:
                out = sys.stderr
            out.write(text)
            out.flush()

    def _all_at_once(self, calls: Sequence[Callable[[], object]]) -> None:
        problems: list[Exception] = []

        def call(work: Callable[[], object]) -> None:
            try:
                work()
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=call, args=(work,)) for work in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        users = [error for error in problems if isinstance(error, UserError)]
        for error in (*users, *problems):
            raise error

    def _wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _end(self) -> None:
        if self._here is not None:
            self._here.end(0.0)
        running = [number for number, thread in self._threads.items() if thread.is_alive()]
        self._all_at_once([self._elsewhere[number].end for number in running])
        self._wait(PARTING_S)
