"""The words that a run's events are logged with, made from the events, so that no test depends on a sentence."""

from __future__ import annotations

from edgecompile.contract.plan import Plan
from edgelaunch.control.core.run_events import (
    EpochBegan,
    LinkCut,
    LinkHealed,
    Loss,
    LossKind,
    RankLost,
    Rejoins,
    ResultsAgain,
    RunEvent,
)
from edgelaunch.control.wording import describe

__all__ = ["continues", "left", "link_is_cut", "link_is_up", "rejoins", "results_again", "silent"]

SOME = 987.6
"""Stands for a figure that differs from run to run: the words end before it."""


def words(plan: Plan, event: RunEvent) -> str:
    text = describe(plan, event)
    assert text is not None
    return text.partition(str(SOME))[0]


def continues(plan: Plan, without: str | None = None) -> str:
    """An epoch begins after another one."""
    return words(plan, EpochBegan(0.0, 2, without, 1000.0, 1000.0))


def silent(plan: Plan, rank: int) -> str:
    return words(plan, RankLost(0.0, Loss(rank, LossKind.SILENT, 0, silent_s=SOME), 0))


def left(plan: Plan, rank: int, signal: str) -> str:
    return words(plan, RankLost(0.0, Loss(rank, LossKind.STOPPED, 0, signal=signal), 0))


def rejoins(plan: Plan) -> str:
    return words(plan, Rejoins(0.0))


def results_again(plan: Plan) -> str:
    return words(plan, ResultsAgain(0.0, SOME))


def link_is_cut(plan: Plan, first: int, second: int) -> str:
    return words(plan, LinkCut(0.0, frozenset((first, second)), SOME, 0))


def link_is_up(plan: Plan, first: int, second: int) -> str:
    return words(plan, LinkHealed(0.0, frozenset((first, second)), SOME, both=True))
