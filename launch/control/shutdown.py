"""The normal end of a run: rank 0 collects the counters of the others, releases them and exits last."""

from __future__ import annotations

import time
from typing import Any

from edgecompile.contract.plan import Plan
from edgelaunch.control.roster import Roster
from edgelaunch.store.meeting import Board, Meeting
from edgelaunch.transport.counters import StageClock

__all__ = ["await_farewells", "collect_summaries"]

POLL_S = 0.02
FAREWELL_S = 3.0


def collect_summaries(plan: Plan, ranks: dict[int, dict[str, Any]], meeting: Meeting, roster: Roster) -> None:
    """Adds each rank's summary to `ranks`; an empty one for a rank that was lost after the last result."""
    deadline = time.monotonic() + plan.runtime.detect_s
    for stage in plan.stages:
        while stage.rank not in ranks:
            summary = meeting.timing(stage.rank)
            if summary is None and (stage.rank not in roster.states() or time.monotonic() > deadline):
                summary = {"send": {}, "receive": {}, "machine": "", "stage": StageClock().summary()}
            if summary is not None:
                ranks[stage.rank] = summary
            else:
                time.sleep(POLL_S)


def await_farewells(board: Board, roster: Roster) -> None:
    """Until every rank has said that it goes, or has had its time for that."""
    deadline = time.monotonic() + FAREWELL_S
    while time.monotonic() < deadline and not all(board.has(f"bye/{rank}") for rank in roster.states()):
        time.sleep(POLL_S)
