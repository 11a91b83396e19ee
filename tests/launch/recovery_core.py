"""Rank 0's core with a clock and a log: its list of ranks, and what it decides, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgecompile.contract.plan import Plan
from edgelaunch.common.failures import Failure
from edgelaunch.control.core import roster as rosters
from edgelaunch.control.core.leader import step
from edgelaunch.control.core.leader_events import (
    Begin,
    EndRun,
    OwnLinks,
    Report,
    RequestKill,
    SuspicionCame,
    Tick,
)
from edgelaunch.control.core.leader_events import Halt as HaltAction
from edgelaunch.control.core.leader_state import LeaderState, Phase, awaited
from edgelaunch.control.core.membership import Announcement, Suspicion, Verdict
from edgelaunch.control.core.rules import Rules
from edgelaunch.control.core.run_events import LossKind
from edgelaunch.control.wording import LATE, awaited_words, describe, failure_of, loss_words, verdict_words

__all__ = ["LATE", "Coordinator", "Form", "Halt", "Roster"]


@dataclass(frozen=True)
class Loss:
    rank: int
    reason: str
    silent_process: int | None


@dataclass(frozen=True)
class Form:
    without: str | None
    members: dict[int, str]


@dataclass(frozen=True)
class Halt:
    pass


class Roster:
    """Calls in place of events."""

    def __init__(self, plan: Plan, sha256: str) -> None:
        self.plan, self.inner = plan, rosters.Roster.of(Rules.of(plan, sha256))
        self.said: list[Suspicion] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            self.inner = getattr(self.inner, name)(*arguments)

        return call

    def states(self) -> dict[int, rosters.Member]:
        return {rank: member for rank, member in enumerate(self.inner.holders) if member is not None}

    def take_losses(self) -> list[Loss]:
        losses, self.inner = self.inner.losses, replace(self.inner, losses=())
        return [Loss(loss.rank, loss_words(loss), loss.process if loss.kind is LossKind.SILENT else None)
                for loss in losses]  # fmt: skip

    @property
    def verdicts(self) -> dict[str, str]:
        return {answer.incarnation: verdict_words(self.plan, answer.rank, answer.verdict)
                for answer in self.inner.answers if answer.verdict is not None}  # fmt: skip

    @property
    def holders(self) -> dict[str, Any]:
        return {answer.incarnation: answer.holder for answer in self.inner.answers if answer.holder is not None}

    def close(self) -> dict[str, str]:
        before = len(self.inner.answers)
        self.inner = self.inner.close()
        return {answer.incarnation: LATE for answer in self.inner.answers[before:] if answer.verdict is Verdict.LATE}

    def suspect(self, suspicion: Suspicion) -> None:
        self.said.append(suspicion)


class Coordinator:
    def __init__(
        self,
        plan: Plan,
        roster: Roster,
        log: Callable[[str], None],
        lost: Callable[[int, int], None],
        turned_away: Mapping[int, str],
    ) -> None:
        self.plan, self.roster, self.log, self.lost, self.turned_away = plan, roster, log, lost, turned_away
        self.state = LeaderState.of(roster.inner.rules, 0.0)
        self._begin = self.state.began

    def waits_for(self) -> tuple[str, float | None]:
        found = awaited(replace(self.state, roster=self.roster.inner))
        return awaited_words(self.plan, found), found.most_s

    def formed(self, announcement: Announcement) -> None:
        assert self.state.epoch is not None
        assert announcement.number == self.state.epoch.number

    def step(self, now: float, num_items: int) -> Form | Halt | Failure | None:
        own = (self.roster.__dict__.get("own_link", ""), self.roster.__dict__.get("own_silent", ()))
        state = replace(self.state, roster=self.roster.inner, store_answered=now)
        if any(own):
            state, _ = step(state, OwnLinks(*own))
        for suspicion in self.roster.said:
            state, _ = step(state, SuspicionCame(now, suspicion))
        self.roster.said = []
        self.state, actions = step(state, Tick(now, num_items))
        self.roster.inner = self.state.roster
        found: Form | Halt | Failure | None = None
        for action in actions:
            if isinstance(action, Report) and (text := describe(self.plan, action.event)) is not None:
                self.log(text)
            elif isinstance(action, RequestKill):
                self.lost(action.rank, action.process)
            elif isinstance(action, HaltAction):
                found = Halt()
            elif isinstance(action, Begin):
                members = {rank: name for rank, name in enumerate(action.members) if name is not None}
                found = Form(action.without, members)
            elif isinstance(action, EndRun):
                found = failure_of(self.plan, 0, action.cause, self.turned_away)
                self.state = replace(self.state, phase=Phase.RUNNING)  # a test may ask again
        return found
