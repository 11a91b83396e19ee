"""The words for what happens in a run: log lines from its events, failures from the causes of its end."""

from __future__ import annotations

from collections.abc import Mapping

from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_items_rate, format_number
from edgelaunch.common.failures import (
    AlreadyRunningError,
    Failure,
    FailureKind,
    TooLateError,
    link_name,
    rank_name,
    rank_title,
)
from edgelaunch.common.plan_parts import Pair
from edgelaunch.control.core.membership import Awaited, Verdict
from edgelaunch.control.core.run_events import (
    Cause,
    EpochBegan,
    EpochEnded,
    LeaderSilent,
    LinkCut,
    LinkHealed,
    Loss,
    LossKind,
    NoResult,
    NotBack,
    NotHealed,
    NotJoined,
    RankJoined,
    RankLost,
    Rejected,
    Rejoins,
    ResultsAgain,
    RunEvent,
    StoreGone,
    StoreSilent,
    WrongPlan,
)

__all__ = ["awaited_words", "describe", "failure_of", "loss_words", "quiet_words", "verdict_words"]

LATE = "the run is over: this rank joined after the last result and did nothing: start it again for the next run"


def describe(plan: Plan, event: RunEvent) -> str | None:
    """A log line; None for what is not worth one."""
    text = None
    if isinstance(event, RankLost):
        text = f"{rank_title(plan, event.loss.rank)} {loss_words(event.loss)}{_after(event.num_items)}"
    elif isinstance(event, LinkCut):
        text = _cut(plan, event.ranks, event.silent_s, event.num_items)
    elif isinstance(event, LinkHealed) and event.both:
        text = f"{link_name(plan, event.ranks)} is up again, {event.after_s:.1f} s later"
    elif isinstance(event, EpochBegan) and event.number > 1:
        rates = f"predicted {format_items_rate(event.rate)} (was {format_number(event.planned_rate)})"
        planned = event.without is None
        text = (
            "all ranks are present: continuing as planned"
            if planned
            else f"continuing without {event.without}: {rates}"
        )
    elif isinstance(event, ResultsAgain):
        text = f"results again, {event.pause_s:.2f} s after the last one"
    elif isinstance(event, Rejoins):
        text = "was unreachable and considered lost: rejoining"
    return text


def quiet_words(plan: Plan, event: RunEvent) -> str:
    """Of an event that is not worth a line at a terminal, for logs with levels and for who watches."""
    if isinstance(event, RankJoined):
        return f"{rank_name(plan, event.rank)} joined"
    if isinstance(event, LinkHealed):
        return f"{link_name(plan, event.ranks)} is no longer watched: one of its ends is gone"
    if isinstance(event, EpochEnded):
        return f"epoch {event.number} ended early"
    assert isinstance(event, EpochBegan)
    return f"epoch {event.number} began"


def loss_words(loss: Loss) -> str:
    """To follow the rank's name."""
    return {
        LossKind.SILENT: f"stopped answering {loss.silent_s:.1f} s ago",
        LossKind.DISCONNECTED: "is gone: it closed its connection",
        LossKind.STOPPED: f"was told to stop ({loss.signal}), and left",
        LossKind.ENDED: "is gone: its process has ended",
    }[loss.kind]


def _cut(plan: Plan, link: Pair, silent_s: float, num_items: int) -> str:
    return f"{link_name(plan, link)} is cut: no data came through for {silent_s:.1f} s{_after(num_items)}"


def _after(num_items: int) -> str:
    return f", after item {num_items:,}" if num_items else ""


def awaited_words(plan: Plan, awaited: Awaited) -> str:
    """Whom rank 0 waits for, to follow "waiting for"; empty where it waits for nobody."""
    verbs = (
        (awaited.absent, "to join" if awaited.first else "to come back"),
        (awaited.loading, "to load its shard"),
    )
    words = [f"{', '.join(rank_name(plan, rank) for rank in ranks)} {verb}" for ranks, verb in verbs if ranks]
    return " and ".join(words)


def verdict_words(plan: Plan, rank: int, verdict: Verdict) -> str:
    """Why a process does not get this rank."""
    name = rank_name(plan, rank)
    return {
        Verdict.OUT: "",
        Verdict.LATE: LATE,
        Verdict.RUNS_ALREADY: f"{name} is already running: start each rank once",
        Verdict.OTHER_PLAN: f"{name} has another plan than rank 0: copy the same plan to both",
        Verdict.NO_SUCH_RANK: f"the plan has no {name} to join",
    }[verdict]


def failure_of(plan: Plan, rank: int, cause: Cause, turned_away: Mapping[int, str] | None = None) -> Failure:
    """Why this rank's process ends; `turned_away`: on rank 0, why processes could not join, by their rank."""
    leader = rank_name(plan, 0)
    if isinstance(cause, Rejected):
        kind = TooLateError if cause.verdict is Verdict.LATE else AlreadyRunningError
        return Failure.of(rank, kind(verdict_words(plan, rank, cause.verdict)))
    if isinstance(cause, StoreSilent):
        whose, hint = (leader, "") if rank else ("this rank's own store", ": is its network down?")
        return Failure.unreachable(f"{whose} stopped answering {cause.silent_s:.1f} s ago{hint}")
    if isinstance(cause, LeaderSilent):
        return Failure.unreachable(f"{leader} stopped answering {cause.silent_s:.1f} s ago")
    if isinstance(cause, StoreGone):
        return Failure.unreachable(f"{leader} is gone: its store no longer answers", cause.reason)
    return _end_of_run(plan, cause, turned_away or {})


def _end_of_run(
    plan: Plan, cause: WrongPlan | NotJoined | NotBack | NotHealed | NoResult, turned_away: Mapping[int, str]
) -> Failure:
    if isinstance(cause, WrongPlan):
        return Failure(rank=0, kind=FailureKind.USER, message=verdict_words(plan, cause.rank, Verdict.OTHER_PLAN))
    if isinstance(cause, NotJoined):
        names = ", ".join(rank_name(plan, rank) for rank in cause.ranks)
        reasons = [turned_away[rank] for rank in cause.ranks if rank in turned_away]
        why = "; ".join(reasons) or "start edgelaunch with the same plan there"
        message = f"{names} did not join within {cause.timeout_s:g} s: {why}"
        return Failure(rank=0, kind=FailureKind.USER, message=message)
    if isinstance(cause, NoResult):
        reason = loss_words(cause.loss) if cause.loss is not None else "connections broke"
        message = f"no result came in {cause.attempts} attempts to connect the ranks; the last reason: {reason}"
        return Failure(rank=0, kind=FailureKind.LOST, message=message)
    within = f" within {cause.rejoin_s:g} s" if cause.rejoin_s else ""
    if isinstance(cause, NotBack):
        waited = f": it did not come back{within}" if within else ""
        message = f"{rank_title(plan, cause.loss.rank)} {loss_words(cause.loss)}{_after(cause.num_items)}{waited}"
        return Failure(rank=cause.loss.rank, kind=FailureKind.LOST, message=message)
    waited = f": it did not heal{within}: repair the network between these two" if within else ""
    message = _cut(plan, cause.ranks, cause.silent_s, cause.num_items) + waited
    return Failure(rank=max(cause.ranks), kind=FailureKind.LOST, message=message)
