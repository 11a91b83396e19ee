"""The log lines of a run's events: words, level, and fields for JSON."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from edgecompile.contract.plan import Plan
from edgelaunch.common.detection import detection_s
from edgelaunch.common.failures import rank_name
from edgelaunch.common.rank_log import RankLog
from edgelaunch.control.core.roster import Member
from edgelaunch.control.core.run_events import (
    EpochBegan,
    LinkCut,
    Loss,
    RankJoined,
    RankLost,
    Rejoins,
    RunEvent,
)
from edgelaunch.control.wording import describe, quiet_words

__all__ = ["LateBeats", "log_event"]

WARNINGS = (RankLost, LinkCut, Rejoins)
HIDDEN = ("at", "number", "incarnation")
UNITS = {"rate": "predicted_items_per_s", "planned_rate": "planned_items_per_s"}
LATE = 1 / 3
"""Of the time of detection: so late a heartbeat is worth a line for who looks for a fault."""


def log_event(log: RankLog, plan: Plan, event: RunEvent) -> None:
    """At a terminal some events are not worth a line; they have one in logs."""
    if isinstance(event, EpochBegan):
        log.enter(event.number)
    text = describe(plan, event)
    level = logging.WARNING if isinstance(event, WARNINGS) else logging.INFO
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
    log(text or quiet_words(plan, event), level=level, event=name, detail=text is None, **_fields(plan, event))


def _fields(plan: Plan, event: RunEvent) -> dict[str, Any]:
    values = {item.name: getattr(event, item.name) for item in fields(event) if item.name not in HIDDEN}
    values = {UNITS.get(name, name): round(value, 3) if isinstance(value, float) else value
              for name, value in values.items()}  # fmt: skip
    loss = values.pop("loss", None)
    if isinstance(loss, Loss):
        values |= {
            "lost_rank": loss.rank, "lost_host": plan.hosts[loss.rank].name, "kind": loss.kind.value,
            "process": loss.process, "silent_s": round(loss.silent_s, 3), "signal": loss.signal,
        }  # fmt: skip
    if isinstance(event, RankJoined):
        values |= {"joined_rank": values.pop("rank"), "joined_host": plan.hosts[event.rank].name}
    if "ranks" in values:
        values |= {"ranks": list(values["ranks"]), "hosts": [plan.hosts[rank].name for rank in values["ranks"]]}
    return values


class LateBeats:
    """Rank 0's, of the other ranks' heartbeats; one line until a rank is heard of again."""

    def __init__(self, plan: Plan, log: RankLog) -> None:
        self._plan, self._log = plan, log
        self._limit_s = LATE * detection_s(plan)
        self._late = set[int]()

    def look(self, holders: Sequence[Member | None], now: float) -> None:
        for rank, member in enumerate(holders):
            silent_s = round(now - member.alive, 3) if member is not None and rank else 0.0
            if silent_s <= self._limit_s:
                self._late.discard(rank)
            elif rank not in self._late:
                self._late.add(rank)
                self._log.trace(f"no heartbeat of {rank_name(self._plan, rank)} for {silent_s:.1f} s", "late_heartbeat",
                                late_rank=rank, late_host=self._plan.hosts[rank].name, silent_s=silent_s)  # fmt: skip
