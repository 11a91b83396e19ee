"""Answers what an agent is asked: facts, one job at a time, boards that joined it. Imports no torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgelaunch.boards.agent.plan_folders import PlanFolders
from edgelaunch.boards.agent.rank_job import Job
from edgelaunch.boards.board_facts import BoardFacts, own_facts
from edgelaunch.boards.job_orders import JobKind, JobOrder
from edgelaunch.boards.signed_requests import Session
from edgelaunch.common.addresses import Address

__all__ = ["BoardAgent", "BusyError"]

PEER_S = 60.0
"""So long a board that joined is known without word of it."""
MOST_PEERS = 1024


class BusyError(UserError):
    """The job of another caller runs."""


class BoardAgent:
    def __init__(
        self, name: str, secret: bytes, secret_file: Path | None, folder: Path, tell: Callable[[str], None]
    ) -> None:
        """Raises UserError where the folder cannot be made."""
        self.name, self.session = name, Session(secret)
        self.folders = PlanFolders(folder)
        self._secret_file, self._tell = secret_file, tell
        self._job: Job | None = None
        self._lock = threading.Lock()
        self._peers: dict[Address, float] = {}

    def facts(self) -> BoardFacts:
        job = self._job
        return own_facts(self.name, job.describe() if job is not None and job.running else "")

    # --- boards that joined this one ---------------------------------------------------------------------------------

    def join(self, peer: Address) -> None:
        with self._lock:
            if peer in self._peers or len(self._peers) < MOST_PEERS:
                self._peers[peer] = time.monotonic()

    def peers(self) -> list[Address]:
        with self._lock:
            now = time.monotonic()
            self._peers = {peer: heard for peer, heard in self._peers.items() if now - heard < PEER_S}
            return list(self._peers)

    # --- the job -----------------------------------------------------------------------------------------------------

    def start(self, order: JobOrder, caller: str) -> None:
        """Raises UserError where the order cannot be carried out; BusyError while another job runs."""
        with self._lock:
            if self._job is not None and self._job.running:
                if self._job.order.job == order.job:
                    return  # the answer to the first was lost
                raise BusyError(f"busy with {self._job.describe()}")
            if order.kind is JobKind.PROFILE and not self.facts_now().compiles:
                raise UserError("cannot compile: pip install 'edgecompile[compile]' there, which edgeprofile needs")
            self._job = Job(order, self.folders, self._secret_file, caller, self._tell)
            self._tell(f"{self._job.describe()}: begun")

    def facts_now(self) -> BoardFacts:
        return own_facts(self.name)

    def job(self, name: str) -> Job:
        """Raises UserError where there is none of this name."""
        job = self._job
        if job is None or job.order.job != name:
            raise UserError("there is no such job: the agent was started again, or another job came")
        job.hear()
        return job

    def end(self) -> None:
        if self._job is not None:
            self._job.end()
