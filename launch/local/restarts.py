"""Decides which ranks are restarted: those killed, lost or told to stop, not those that failed."""

from __future__ import annotations

import logging
import signal
from collections import Counter

from edgecompile.contract.plan import Plan
from edgecompile.terminal.logs import LogForm, log_line
from edgelaunch.common.failures import Failure, FailureKind, rank_name

__all__ = ["Restarts", "restart_line"]


class Restarts:
    """Counts them. Rank 0 is never started again: what it was given and gave would be lost with it."""

    def __init__(self, plan: Plan, most: int) -> None:
        recovers = plan.runtime.rejoin_s > 0 or bool(plan.contingencies)
        self._most = most if recovers else 0
        self._used: Counter[int] = Counter()

    def stop(self) -> None:
        """The run is over: from now on nothing is started again."""
        self._most = 0

    def left(self, rank: int) -> bool:
        return rank != 0 and self._used[rank] < self._most

    def reason(self, rank: int, code: int, report: Failure | None) -> str | None:
        """Why the rank, which ended with this status, is started again; None where it is not. Counts it."""
        killed = code in (-signal.SIGKILL, -signal.SIGTERM)
        told = report is not None and report.kind is FailureKind.LEFT
        lost = report is not None and report.kind is FailureKind.LOST and report.rank == 0
        if not self.left(rank) or not (killed or told or lost):
            return None
        self._used[rank] += 1
        if told and report is not None:
            return report.message
        return f"was killed by {signal.Signals(-code).name}" if killed else "lost contact with rank 0"


def restart_line(form: LogForm, plan: Plan, rank: int, reason: str) -> str:
    """What is logged of it, with the line's end; empty where logs leave warnings out."""
    return log_line(form, f"{rank_name(plan, rank)} {reason}: restarting it", level=logging.WARNING, about="edgelaunch",
                    event="restarting", lost_rank=rank, lost_host=plan.hosts[rank].name)  # fmt: skip
