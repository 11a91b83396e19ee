"""Decisions of rank 0: when an epoch ends, which ranks and route the next one uses, when the run is over.

`step` is a pure function; times are seconds on any clock that does not go back. Whoever feeds it carries out the
actions, in order, before the next event of the same thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgelaunch.control.core.leader_events import (
    Action,
    Actions,
    Announce,
    BeatCame,
    Begin,
    ByeCame,
    Closing,
    EndRun,
    Event,
    FinishRun,
    Halt,
    HelloCame,
    LeaveCame,
    Looked,
    OwnLinks,
    Publish,
    Report,
    RequestKill,
    SignCame,
    StoodStill,
    StoreAnswered,
    StreamEnded,
    SummaryCame,
    SuspicionCame,
    Tick,
)
from edgelaunch.control.core.leader_state import Epoch, LeaderState, Phase
from edgelaunch.control.core.roster import Roster
from edgelaunch.control.core.rules import Route
from edgelaunch.control.core.run_events import (
    Cause,
    EpochBegan,
    EpochEnded,
    LinkCut,
    LinkHealed,
    LossKind,
    NoResult,
    NotBack,
    NotHealed,
    NotJoined,
    RankJoined,
    RankLost,
    StoreSilent,
    WrongPlan,
)

__all__ = ["step"]

GRACE_S = 0.75
"""How long a rank whose connection broke may take to show that it is there."""
BACK_OFF_S = 2.0
"""A rank that comes and goes is gone back to only so long after its loss, times its other losses lately."""
LATELY_S = 60.0
MANY = 100
MAX_ATTEMPTS = 10
"""Epochs in a row without one result."""
LEAST_WAIT_S, MOST_WAIT_S = 0.02, 4.0
"""From one of them to the next."""
PARTING_S = 3.0
"""How long the other ranks may take to say that they end."""
STORE_SILENCES = 2
"""Times the time of detection: so long rank 0's own store may not answer."""


def step(state: LeaderState, event: Event) -> tuple[LeaderState, Actions]:
    """What follows from an event."""
    return _STEPS[type(event)](state, event)


# --- what the ranks say ----------------------------------------------------------------------------------------------


def _with_roster(state: LeaderState, roster: Roster) -> tuple[LeaderState, Actions]:
    """Publishes what the list of ranks wants published."""
    roster, actions = _answered(roster)
    return (state if roster is state.roster else replace(state, roster=roster)), actions


def _answered(roster: Roster) -> tuple[Roster, Actions]:
    if not roster.answers:
        return roster, ()
    return replace(roster, answers=()), tuple(Publish(answer) for answer in roster.answers)


def _hello(state: LeaderState, event: HelloCame) -> tuple[LeaderState, Actions]:
    return _with_roster(state, state.roster.take_hello(event.hello, event.at))


def _leave(state: LeaderState, event: LeaveCame) -> tuple[LeaderState, Actions]:
    return _with_roster(state, state.roster.take_leave(event.leave, event.at))


def _beat(state: LeaderState, event: BeatCame) -> tuple[LeaderState, Actions]:
    return _with_roster(state, state.roster.take_beat(event.rank, event.beat, event.at))


def _looked(state: LeaderState, event: Looked) -> tuple[LeaderState, Actions]:
    return _with_roster(state, state.roster.look(event.at))


def _suspicion(state: LeaderState, event: SuspicionCame) -> tuple[LeaderState, Actions]:
    number = state.epoch.number if state.epoch is not None else None
    return replace(state, roster=state.roster.take_suspicion(event.suspicion, number)), ()


def _sign(state: LeaderState, event: SignCame) -> tuple[LeaderState, Actions]:
    return replace(state, roster=state.roster.take_sign(event.rank, event.link, event.signed, event.more_s)), ()


def _own_links(state: LeaderState, event: OwnLinks) -> tuple[LeaderState, Actions]:
    return replace(state, roster=replace(state.roster, own_link=event.link, own_silent=event.silent)), ()


def _store_answered(state: LeaderState, event: StoreAnswered) -> tuple[LeaderState, Actions]:
    return replace(state, store_answered=event.at), ()


def _stood_still(state: LeaderState, event: StoodStill) -> tuple[LeaderState, Actions]:
    return replace(state, roster=state.roster.forgive(event.at)), ()


# --- what rank 0 decides ---------------------------------------------------------------------------------------------


def _tick(state: LeaderState, event: Tick) -> tuple[LeaderState, Actions]:
    now = event.at
    if state.phase is Phase.OVER:
        return state, ()
    if (silent_s := now - state.store_answered) > STORE_SILENCES * state.rules.detect_s:
        return _end(state, StoreSilent(silent_s))
    if state.phase is not Phase.RUNNING:
        return _part(state, now)
    state, actions = _note(state, now, event.num_items)
    state, more = _lead(state, now, event.num_items)
    return state, (*actions, *more)


def _lead(state: LeaderState, now: float, num_items: int) -> tuple[LeaderState, Actions]:
    if state.epoch is not None and state.halted is None:
        if _must_halt(state, state.epoch) or _may_go_back(state, state.epoch, now):
            number = state.epoch.number
            return replace(state, halted=now, said=now), (Report(EpochEnded(now, number)), Halt(number))
        return _repeated(state, now)
    noted: Actions = ()
    if state.epoch is not None:
        state, all_left = _all_left(state, state.epoch, now)
        if not all_left:
            return _repeated(state, now)
        state, noted = _note(state, now, num_items)
        state = replace(state, epoch=None, halted=None)
    state, actions = _first(state, now) if state.number == 0 else _next(state, now, num_items)
    if not actions:
        state, actions = _repeated(state, now)
    return state, (*noted, *actions)


def _repeated(state: LeaderState, now: float) -> tuple[LeaderState, Actions]:
    """An announcement that was lost on its way would leave the others in an epoch that is over."""
    if state.number == 0 or now - state.said < state.rules.beat_s:
        return state, ()
    return replace(state, said=now), (Announce(),)


def _end(state: LeaderState, cause: Cause) -> tuple[LeaderState, Actions]:
    return replace(state, phase=Phase.OVER), (EndRun(cause),)


def _note(state: LeaderState, now: float, num_items: int) -> tuple[LeaderState, Actions]:
    """Ranks that were lost, links that were cut or carry again."""
    actions: list[Action] = []
    roster, told = _answered(state.roster)
    lost, troubles = list(state.lost), list(state.troubles)
    for loss in roster.losses:
        lost[loss.rank] = (loss, now)
        troubles.append((frozenset((loss.rank,)), now))
        actions.append(Report(RankLost(now, loss, num_items)))
        if loss.kind is LossKind.SILENT:
            actions.append(RequestKill(loss.rank, loss.process))
    actions += (Report(RankJoined(now, rank, incarnation)) for rank, incarnation in roster.joined)
    if roster.losses or roster.joined:
        roster = replace(roster, losses=(), joined=())
    roster, silent = roster.note_silent_links(now)
    cut = dict(state.cut)
    for link in sorted(silent.keys() - cut.keys(), key=sorted):
        if silent[link]:
            cut[link] = now
            actions.append(Report(LinkCut(now, link, state.rules.silence_s, num_items)))
    for link in sorted(cut.keys() - silent.keys(), key=sorted):
        since = cut.pop(link)
        troubles.append((link, now))
        both = all(rank == 0 or roster.holders[rank] is not None for rank in link)
        actions.append(Report(LinkHealed(now, link, now - since, both)))
    if not actions and roster is state.roster:
        return state, told
    state = replace(state, roster=roster, lost=tuple(lost), cut=tuple(cut.items()), troubles=tuple(troubles[-MANY:]))
    return state, (*told, *actions)


def _must_halt(state: LeaderState, epoch: Epoch) -> bool:
    if not all(state.roster.holds(rank, epoch.members[rank]) for rank in epoch.route.group[1:]):
        return True
    return _is_cut(state, epoch.route) or bool(state.roster.suspicions)


def _is_cut(state: LeaderState, route: Route) -> bool:
    return any(link in route.links for link, _ in state.cut)


def _all_left(state: LeaderState, epoch: Epoch, now: float) -> tuple[LeaderState, bool]:
    """Whether every member has left the epoch; one that was suspected and is silent is lost."""
    assert state.halted is not None
    members, number = epoch.members, epoch.number
    holders = [(rank, member) for rank, member in enumerate(state.roster.holders) if member is not None]
    staying = [rank for rank, member in holders if member.incarnation == members[rank] and member.left < number]
    if not staying:
        return state, True
    if now - state.halted < GRACE_S:
        return state, False
    roster = state.roster
    for rank in sorted({suspicion.lost for suspicion in roster.suspicions} & set(staying)):
        roster = roster.lose(rank, LossKind.DISCONNECTED, at=now)
    return replace(state, roster=roster), True  # whoever else is silent is found by its heartbeats


def _first(state: LeaderState, now: float) -> tuple[LeaderState, Actions]:
    rules, roster = state.rules, state.roster
    if roster.wrong_plan is not None:
        return _end(state, WrongPlan(roster.wrong_plan))
    missing = tuple(rank for rank in range(1, rules.num_ranks) if roster.holders[rank] is None)
    if missing and now - state.began > rules.timeout_s:
        return _end(state, NotJoined(missing, rules.timeout_s))
    if missing or not _able(state, rules.routes[0]):
        return state, ()
    return _form(state, rules.routes[0], now)


def _next(state: LeaderState, now: float, num_items: int) -> tuple[LeaderState, Actions]:
    rules, holders = state.rules, state.roster.holders
    if now < state.not_before:
        return state, ()
    able = [route for route in rules.routes if _able(state, route)]
    if able:
        return _attempt(state, max(able, key=lambda route: (route.without is None, route.rate)), num_items, now)
    gone = [found for rank in rules.routes[0].ranks
            if rank and holders[rank] is None and (found := state.lost[rank]) is not None]  # fmt: skip
    if gone and now - max(at for _, at in gone) >= rules.rejoin_s:
        loss, _ = min(gone, key=lambda item: item[1])
        return _end(state, NotBack(loss, rules.rejoin_s, num_items))
    ready = all(not rank or ((member := holders[rank]) is not None and member.ready) for rank in rules.routes[0].ranks)
    cut = [(link, at) for link, at in state.cut if link in rules.routes[0].links]
    if ready and now - max((at for _, at in cut), default=now) >= rules.rejoin_s:
        link, _ = min(cut, key=lambda item: (item[1], sorted(item[0])))
        return _end(state, NotHealed(link, rules.silence_s, rules.rejoin_s, num_items))
    return state, ()


def _able(state: LeaderState, route: Route) -> bool:
    """Whether all ranks of a route are there, with a shard loaded, and its links carry."""
    holders = state.roster.holders
    there = all(rank == 0 or ((member := holders[rank]) is not None and member.ready) for rank in route.ranks)
    return there and not _is_cut(state, route)


def _attempt(state: LeaderState, route: Route, num_items: int, now: float) -> tuple[LeaderState, Actions]:
    """Later and later while no result comes: what is wrong with a link is known only after a while."""
    attempts = state.attempts + 1 if num_items == state.num_items else 1
    wait_s = min(MOST_WAIT_S, LEAST_WAIT_S * 2**attempts)
    state = replace(state, attempts=attempts, num_items=num_items, not_before=now + wait_s)
    if attempts > MAX_ATTEMPTS:
        losses = [found for found in state.lost if found is not None]
        last = max(losses, key=lambda item: item[1])[0] if losses else None
        return _end(state, NoResult(MAX_ATTEMPTS, last))
    return _form(state, route, now)


def _form(state: LeaderState, route: Route, now: float) -> tuple[LeaderState, Actions]:
    number, members = state.number + 1, state.members
    roster = replace(state.roster, suspicions=frozenset())
    state = replace(state, number=number, epoch=Epoch(number, route, members), halted=None, said=now, roster=roster)
    began = EpochBegan(now, number, route.without, route.rate, state.rules.routes[0].rate)
    return state, (Report(began), Begin(number, route.without, members))


def _may_go_back(state: LeaderState, epoch: Epoch, now: float) -> bool:
    """Whether the missing rank is back, and has not been lost too often lately to trust it at once."""
    rank = epoch.route.lost
    if rank is None or not _able(state, state.rules.routes[0]):
        return False
    troubles = [at for ranks, at in state.troubles if rank in ranks and now - at < LATELY_S]
    return not troubles or now - troubles[-1] >= BACK_OFF_S * (len(troubles) - 1)


# --- the end ---------------------------------------------------------------------------------------------------------


def _stream_ended(state: LeaderState, event: StreamEnded) -> tuple[LeaderState, Actions]:
    if state.phase is not Phase.RUNNING:
        return state, ()
    deadline = event.at + state.rules.detect_s
    return _part(replace(state, phase=Phase.COLLECTING, arrived=frozenset((0,)), deadline=deadline), event.at)


def _arrived(state: LeaderState, event: SummaryCame | ByeCame) -> tuple[LeaderState, Actions]:
    wanted = Phase.COLLECTING if isinstance(event, SummaryCame) else Phase.PARTING
    return (replace(state, arrived=state.arrived | {event.rank}) if state.phase is wanted else state), ()


def _part(state: LeaderState, now: float) -> tuple[LeaderState, Actions]:
    """Lets the others go once they have said what there is to say; rank 0 goes last."""
    holders = state.roster.holders
    if state.phase is Phase.PARTING:
        present = {rank for rank, member in enumerate(holders) if member is not None}
        if present <= state.arrived or now > state.deadline:
            return replace(state, phase=Phase.OVER), (FinishRun(),)
        return _repeated(state, now)
    asked = state.epoch.route.group if state.epoch is not None else ()
    if now <= state.deadline and any(rank not in state.arrived and holders[rank] is not None for rank in asked):
        return _repeated(state, now)
    roster, answers = _answered(state.roster.close())
    state = replace(
        state, phase=Phase.PARTING, roster=roster, arrived=frozenset((0,)),
        deadline=now + PARTING_S, said=now,
    )  # fmt: skip
    return state, (*answers, Closing(state.number, state.members))


_STEPS: dict[type, Callable[[LeaderState, Any], tuple[LeaderState, Actions]]] = {
    HelloCame: _hello,
    LeaveCame: _leave,
    SuspicionCame: _suspicion,
    BeatCame: _beat,
    SignCame: _sign,
    OwnLinks: _own_links,
    Looked: _looked,
    StoreAnswered: _store_answered,
    StoodStill: _stood_still,
    Tick: _tick,
    StreamEnded: _stream_ended,
    SummaryCame: _arrived,
    ByeCame: _arrived,
}
