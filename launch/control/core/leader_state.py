"""State of rank 0 in a run, and what follows from it alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edgelaunch.common.plan_parts import Pair
from edgelaunch.control.core.membership import Awaited
from edgelaunch.control.core.roster import Roster
from edgelaunch.control.core.rules import Route, Rules
from edgelaunch.control.core.run_events import Loss

__all__ = ["Epoch", "LeaderState", "Phase", "awaited"]


class Phase(Enum):
    RUNNING = "running"
    COLLECTING = "collecting"
    """All results are there; the other ranks' summaries are awaited."""
    PARTING = "parting"
    """The other ranks end."""
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Epoch:
    number: int
    route: Route
    members: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class LeaderState:
    rules: Rules
    began: float
    roster: Roster
    phase: Phase = Phase.RUNNING
    epoch: Epoch | None = None
    """The one that runs, or that is being left."""
    halted: float | None = None
    """Since when it is being left."""
    number: int = 0
    """Of the latest epoch."""
    said: float = 0.0
    """When it was last announced."""
    lost: tuple[tuple[Loss, float] | None, ...] = ()
    """By rank, its latest loss and when."""
    cut: tuple[tuple[Pair, float], ...] = ()
    """Links that do not carry, and since when that is known."""
    troubles: tuple[tuple[Pair, float], ...] = ()
    """Ranks that were lost, and links that did not carry and do again, each with the time."""
    attempts: int = 0
    not_before: float = 0.0
    num_items: int = -1
    """Whose results were there at the last attempt."""
    arrived: frozenset[int] = frozenset()
    """Whose summaries, or last words, have come."""
    deadline: float = 0.0
    """For them."""
    store_answered: float = 0.0

    @staticmethod
    def of(rules: Rules, at: float) -> LeaderState:
        return LeaderState(rules, at, Roster.of(rules), lost=(None,) * rules.num_ranks, store_answered=at)

    @property
    def recovering(self) -> bool:
        """Whether ranks are being waited for, so that every moment counts."""
        return self.epoch is None or self.halted is not None or self.phase is not Phase.RUNNING

    @property
    def members(self) -> tuple[str | None, ...]:
        """Of whoever is there."""
        return ("", *(member.incarnation if member is not None else None for member in self.roster.holders[1:]))


def awaited(state: LeaderState) -> Awaited:
    if state.epoch is not None or state.phase is not Phase.RUNNING:
        return Awaited()
    holders, first, rules = state.roster.holders, state.number == 0, state.rules
    wanted = sorted(set(range(1, rules.num_ranks)) if first else set(rules.routes[0].ranks) - {0})
    absent = tuple(rank for rank in wanted if holders[rank] is None)
    loading = tuple(rank for rank in wanted if (member := holders[rank]) is not None and not member.ready)
    most_s = (rules.timeout_s if first else rules.rejoin_s) if absent else None
    return Awaited(absent, loading, first, most_s)
