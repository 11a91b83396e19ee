"""Places on this machine where ranks are started; a parent that emulates hosts has places of its own."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from edgecompile.contract.plan import Plan
from edgelaunch.common.addresses import LOOPBACK, Address
from edgelaunch.process.cores import local_threads, share_of_cores
from edgelaunch.request.started_rank import RankSettings

__all__ = ["OnLoopback", "RankPlacement", "listen_on_loopback"]


class RankPlacement(Protocol):
    """Where on this machine ranks are started."""

    def prefix(self, rank: int) -> Sequence[str]:
        """What stands before the rank's command."""

    def settings(self, rank: int) -> RankSettings:
        """Where it meets the others, and with how many threads."""

    def why_killed(self, rank: int) -> str | None:
        """In words, where the place itself is why the rank was killed."""


class OnLoopback:
    """Ranks that meet at a port of the loopback interface and share this machine's cores."""

    def __init__(self, plan: Plan, port: int, max_threads: int | None = None) -> None:
        self._plan, self._port, self._max_threads = plan, port, max_threads
        self._cores = [share_of_cores(rank, len(plan.hosts)) for rank in range(len(plan.hosts))]

    def prefix(self, rank: int) -> Sequence[str]:
        return []

    def settings(self, rank: int) -> RankSettings:
        num_here = len(self._plan.hosts)
        threads = local_threads(self._plan, rank, num_here)
        return RankSettings(
            master=Address(LOOPBACK, self._port), threads=min(threads, self._max_threads or threads),
            cores=self._cores[rank],
        )  # fmt: skip

    def why_killed(self, rank: int) -> str | None:
        return None


def listen_on_loopback() -> socket.socket:
    """A free port, held until rank 0 takes it over, so that no other process can."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((LOOPBACK, 0))
    listener.listen(256)
    return listener
