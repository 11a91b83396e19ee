"""Decisions of every rank but 0: which epoch it is in, whether it still has its rank, whether rank 0 is present.

`step` is a pure function, as rank 0's is; see `leader`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edgelaunch.common.detection import STORE_PATIENCE
from edgelaunch.control.core.follower_events import (
    Actions,
    AnnouncementCame,
    Answered,
    BeatNow,
    EndRank,
    Enter,
    Event,
    FinishRank,
    HolderGone,
    LeaderBeat,
    LeaderSign,
    LeaveEpoch,
    LinkBroke,
    LoadedShard,
    Note,
    OwnTick,
    Paused,
    Say,
    Start,
    StoreFailed,
    VerdictCame,
)
from edgelaunch.control.core.membership import (
    DONE,
    HALT,
    RUN,
    Announcement,
    Beat,
    Hello,
    Leave,
    Process,
    Suspicion,
    Verdict,
)
from edgelaunch.control.core.rules import Rules
from edgelaunch.control.core.run_events import (
    Cause,
    LeaderSilent,
    Rejected,
    Rejoins,
    StoreGone,
    StoreSilent,
)

__all__ = ["FollowerState", "step", "store_silent_s"]

# --- the state -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FollowerState:
    rules: Rules
    rank: int
    incarnation: str
    process: Process
    ready: bool = False
    """Whether it has its shard."""
    left: int = 0
    """The last epoch that it has left, or seen halted."""
    number: int = 0
    """The last epoch that it was a member of."""
    inside: bool = False
    """Whether it takes part in that one."""
    heard: Announcement | None = None
    """Rank 0's latest."""
    acted: Announcement | None = None
    """The last one that was acted on."""
    asked: float = 0.0
    """When it last asked for its rank."""
    verdict: Verdict | None = None
    following: str = ""
    broken: Suspicion | None = None
    """Of the epoch that it is in, a connection that broke."""
    complained: float = 0.0
    """When it last said so."""
    gone: str = ""
    """The latest holder of this rank that was found to be gone."""
    leader: Beat | None = None
    leader_changed: float = 0.0
    """Since when rank 0's heartbeat has been the same."""
    signed: float | None = None
    """When rank 0's process last wrote over its link."""
    more_s: float = 0.0
    """So much longer may the next time take than on a fast link."""
    answered: float = 0.0
    """When the store last did."""
    over: bool = False

    @staticmethod
    def of(rules: Rules, rank: int, incarnation: str, process: Process, at: float) -> FollowerState:
        return FollowerState(rules, rank, incarnation, process, leader_changed=at, answered=at, asked=at)

    @property
    def is_member(self) -> bool:
        """Whether rank 0 counts this process itself among the ranks that are there."""
        return self.heard is not None and self.heard.members.get(self.rank) == self.incarnation


def step(state: FollowerState, event: Event) -> tuple[FollowerState, Actions]:
    """What follows from an event."""
    if state.over:
        return state, ()
    return _STEPS[type(event)](state, event)


def store_silent_s(state: FollowerState, now: float) -> float:
    """How long nothing has come from rank 0: neither an answer of its store nor, within reason, a sign of life."""
    store_s = now - state.answered
    if state.signed is None or store_s > STORE_PATIENCE * (state.rules.detect_s + state.more_s):
        return store_s
    return min(store_s, max(0.0, now - state.signed - state.more_s))


# --- what it hears ---------------------------------------------------------------------------------------------------


def _hello(state: FollowerState) -> Say:
    sha256 = state.rules.sha256
    return Say(Hello(rank=state.rank, incarnation=state.incarnation, sha256=sha256, process=state.process))


def _start(state: FollowerState, event: Start) -> tuple[FollowerState, Actions]:
    return replace(state, asked=event.at), (_hello(state), BeatNow())


def _announcement(state: FollowerState, event: AnnouncementCame) -> tuple[FollowerState, Actions]:
    announcement = event.announcement
    if not announcement.is_after(state.heard):
        return state, ()
    state = replace(state, heard=announcement)
    if announcement.phase == HALT:
        return replace(state, left=max(state.left, announcement.number)), (BeatNow(),)
    if announcement.phase == DONE and state.is_member:
        return replace(state, over=True), (FinishRank(),)
    return state, ()


def _verdict(state: FollowerState, event: VerdictCame) -> tuple[FollowerState, Actions]:
    if event.incarnation != state.incarnation:
        return state, ()
    return replace(state, verdict=event.verdict, following=event.following), ()


def _holder_gone(state: FollowerState, event: HolderGone) -> tuple[FollowerState, Actions]:
    if event.incarnation == state.gone or state.is_member:
        return state, ()
    state = replace(state, gone=event.incarnation)
    return state, (_gone(state),)


def _gone(state: FollowerState) -> Say:
    """The holder of this rank has ended."""
    return Say(Leave(rank=state.rank, incarnation=state.gone))


def _link_broke(state: FollowerState, event: LinkBroke) -> tuple[FollowerState, Actions]:
    if not state.inside or event.number != state.number:
        return state, ()
    suspicion = Suspicion(rank=state.rank, number=event.number, lost=event.lost, reason=event.reason)
    return replace(state, broken=state.broken or suspicion, complained=event.at), (Say(suspicion),)


def _ready(state: FollowerState, event: LoadedShard) -> tuple[FollowerState, Actions]:
    return replace(state, ready=event.ready), (BeatNow(),)


# --- whether rank 0 is there -----------------------------------------------------------------------------------------


def _leader_beat(state: FollowerState, event: LeaderBeat) -> tuple[FollowerState, Actions]:
    now, seen = event.at, state.leader
    if seen is None or (event.beat is not None and event.beat.is_after(seen)):
        return replace(state, leader=event.beat, leader_changed=now), ()
    rules, since = state.rules, state.leader_changed
    if state.signed is not None and now - since < STORE_PATIENCE * (rules.detect_s + state.more_s):
        since = max(since, state.signed + state.more_s)
    limit_s = rules.detect_s if seen.ready else max(rules.detect_s, rules.timeout_s)
    return _end(state, LeaderSilent(now - since)) if now - since > limit_s else (state, ())


def _leader_sign(state: FollowerState, event: LeaderSign) -> tuple[FollowerState, Actions]:
    return replace(state, signed=event.signed, more_s=event.more_s), ()


def _answered(state: FollowerState, event: Answered) -> tuple[FollowerState, Actions]:
    return replace(state, answered=event.at), ()


def _store_failed(state: FollowerState, event: StoreFailed) -> tuple[FollowerState, Actions]:
    late = state.heard is not None and state.heard.phase == DONE
    return _end(state, Rejected(Verdict.LATE) if late else StoreGone(event.reason))


def _paused(state: FollowerState, event: Paused) -> tuple[FollowerState, Actions]:
    return replace(state, leader=None, leader_changed=event.at, answered=event.at), ()


def _end(state: FollowerState, cause: Cause) -> tuple[FollowerState, Actions]:
    return replace(state, over=True), (EndRank(cause),)


# --- what it decides -------------------------------------------------------------------------------------------------


def _tick(state: FollowerState, event: OwnTick) -> tuple[FollowerState, Actions]:
    now = event.at
    if (silent_s := store_silent_s(state, now)) > state.rules.detect_s:
        return _end(state, StoreSilent(silent_s))
    actions: Actions = ()
    if state.verdict is not None:
        # heartbeats of a process that has ended may come late, and count for it: whoever knows better asks again
        wrong = state.verdict is Verdict.RUNS_ALREADY and bool(state.gone)
        if state.verdict is not Verdict.OUT and not wrong:
            return _end(state, Rejected(state.verdict))
        state = replace(state, incarnation=state.following, verdict=None, gone="", inside=False, broken=None, asked=now)
        actions = (LeaveEpoch(), _hello(state), BeatNow(), Note(Rejoins(now)))
    elif not state.is_member and now - state.asked >= state.rules.detect_s:
        state, actions = replace(state, asked=now), (_hello(state),)
        if state.gone:
            actions = (*actions, _gone(state))
    if state.heard is not None and state.heard != state.acted:
        state, more = _follow(replace(state, acted=state.heard), state.heard)
        return state, (*actions, *more)
    if state.broken is not None and state.inside and now - state.complained >= state.rules.beat_s:
        return replace(state, complained=now), (*actions, Say(state.broken))
    return state, actions


def _follow(state: FollowerState, heard: Announcement) -> tuple[FollowerState, Actions]:
    """Does what rank 0 announced."""
    actions: Actions = ()
    newer = heard.number > state.number
    if heard.phase == HALT or newer:
        state, actions = replace(state, inside=False, broken=None), (LeaveEpoch(),)
    if heard.phase == RUN and newer and state.is_member:
        inside = state.rank in state.rules.route(heard.without).group
        state = replace(state, number=heard.number, inside=inside)
        actions = (*actions, Enter(heard)) if inside else actions
    return state, actions


_STEPS: dict[type, Callable[[FollowerState, Any], tuple[FollowerState, Actions]]] = {
    Start: _start,
    AnnouncementCame: _announcement,
    VerdictCame: _verdict,
    HolderGone: _holder_gone,
    LeaderBeat: _leader_beat,
    LeaderSign: _leader_sign,
    Answered: _answered,
    StoreFailed: _store_failed,
    Paused: _paused,
    LinkBroke: _link_broke,
    LoadedShard: _ready,
    OwnTick: _tick,
}
