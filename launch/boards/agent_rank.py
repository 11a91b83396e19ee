"""A rank that an agent runs for us: brings what it needs, follows its log, and comes back with an agent that died.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.boards.board_client import NoAgentError
from edgelaunch.boards.board_list import Board
from edgelaunch.boards.job_orders import JobNews, JobOrder
from edgelaunch.boards.plan_hashes import hashes_of
from edgelaunch.common.failures import Failure, FailureKind

__all__ = ["AgentRank", "RankElsewhere", "Sent"]

AGAIN_S = 1.0
"""An agent that does not answer is asked again after so long."""


class RankElsewhere(Protocol):
    """A rank on another machine; its methods are called from a thread of its own, but `end`."""

    order: JobOrder

    def prepare(self) -> None:
        """Brings what it needs. Raises UserError where that cannot be done."""

    def run(self, print: Callable[[str, str], None]) -> Failure | None:
        """Until it has ended: why, or None. Raises UserError where it cannot be started."""

    def end(self) -> None:
        """From any thread: no such rank runs once `run` has returned."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What is brought to an agent before it starts a rank, and fetched when that has ended."""

    plan_path: Path
    plan: Plan | None = None
    """With it, all its files are brought: those that rank 0 needs, or gives to the others."""
    input: Path | None = None
    results: Mapping[str, Path] | None = None
    """Files that the job leaves, and where they go."""


class AgentRank:
    def __init__(self, board: Board, order: JobOrder, sent: Sent, tell: Callable[[str], None]) -> None:
        """`tell`: takes our own lines."""
        self.board, self.order, self._sent, self._tell = board, order, sent, tell
        self._over = threading.Event()

    def prepare(self) -> None:
        client, sent = self.board.client, self._sent
        sha256 = client.send_plan(sent.plan_path)
        self.order = replace(self.order, plan_sha256=sha256)
        if sent.plan is not None:
            lacking = client.lacking(sha256)
            for name, wanted in hashes_of(sent.plan):
                if wanted in lacking:
                    lacking.discard(wanted)
                    path = sent.plan_path.resolve().parent / name
                    if not path.is_file():
                        raise UserError("a file of the plan is missing", key=str(path),
                                        fix="copy it again from where the plan was compiled")  # fmt: skip
                    client.send_file(sha256, path, wanted)
        if sent.input is not None:
            name = f"input{sent.input.suffix.lower()}"
            self.order = replace(self.order, input_name=name, input_sha256=client.send_input(sent.input, name))

    def run(self, print: Callable[[str, str], None]) -> Failure | None:
        client = self.board.client
        starts_left = self.order.restarts + 1
        while True:
            starts_left -= 1
            client.start(self.order)
            try:
                news = self._follow(print)
            except UserError as error:  # the agent is another process than it was
                if not starts_left or self._over.is_set():
                    return self._lost(str(error))
                self._tell(f"{self.board.title}: its agent was started again: starting its rank again")
                self.order = replace(self.order, job=secrets.token_hex(16))
                self.prepare()
                continue
            self._fetch(news)
            return news.failure

    def end(self) -> None:
        self._over.set()
        with contextlib.suppress(UserError):
            self.board.client.end(self.order.job)

    def _follow(self, print: Callable[[str, str], None]) -> JobNews:
        """Raises UserError where the agent knows nothing of the job."""
        since, silent = 0, False
        while True:
            try:
                news = self.board.client.news(self.order.job, since)
            except NoAgentError as error:
                if self._over.is_set():
                    return JobNews(next=since, ended=True)
                if not silent:
                    self._tell(f"{self.board.title}: {error.problem}; asking again")
                silent = True
                time.sleep(AGAIN_S)
                continue
            silent, since = False, news.next
            for stream, text in news.entries:
                print(stream, text)
            if news.ended:
                return news

    def _fetch(self, news: JobNews) -> None:
        for name, path in (self._sent.results or {}).items():
            if name in news.files:
                self.board.client.fetch(self.order.job, name, path)
                self._tell(f"{self.board.title}: {name} fetched to {path}")

    def _lost(self, message: str) -> Failure:
        return Failure(rank=self.order.rank, kind=FailureKind.LOST, message=message, named=False)
