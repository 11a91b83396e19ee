"""The events of a run as values for who watches it. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice

from edgecompile.contract.plan import Plan
from edgelaunch.control.core.run_events import (
    EpochBegan,
    EpochEnded,
    LinkCut,
    LinkHealed,
    RankJoined,
    RankLost,
    ResultsAgain,
    RunEvent,
)
from edgelaunch.control.pipeline_state import Event
from edgelaunch.control.wording import describe, quiet_words

__all__ = ["events_of"]

_KINDS: dict[type[RunEvent], str] = {
    RankJoined: "rank-joined", RankLost: "rank-lost", LinkCut: "link-cut", LinkHealed: "link-healed",
    EpochBegan: "epoch-began", EpochEnded: "epoch-ended", ResultsAgain: "results-again",
}  # fmt: skip


def events_of(plan: Plan, events: Iterable[RunEvent], most: int | None = None) -> tuple[Event, ...]:
    """`most`: of the last ones; None: all."""
    offset = time.time() - time.monotonic()
    known = list(islice((event for event in reversed(tuple(events)) if type(event) in _KINDS), most))
    return tuple(
        Event(at=round(event.at + offset, 2), kind=_KINDS[type(event)],
              text=describe(plan, event) or quiet_words(plan, event), rank=_rank(event))
        for event in reversed(known)
    )  # fmt: skip


def _rank(event: RunEvent) -> int | None:
    if isinstance(event, RankLost):
        return event.loss.rank
    return event.rank if isinstance(event, RankJoined) else None
