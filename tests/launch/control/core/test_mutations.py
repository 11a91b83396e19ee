"""Deliberate faults in the core, each of which the simulated cluster finds: a test that cannot fail proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from faults import random_run
from scenarios import hung_leader, long_load

from edgelaunch.control.core import follower, leader
from edgelaunch.control.core import follower_events as follow
from edgelaunch.control.core.membership import DONE, Announcement, Beat
from edgelaunch.control.core.roster import Member, Roster
from edgelaunch.pipeline.in_flight import Flight

MOST_RUNS = 300

Patch = pytest.MonkeyPatch


def announcements_are_said_once(patch: Patch) -> None:
    patch.setattr(leader, "_repeated", lambda state, now: (state, ()))


def a_rank_asks_once(patch: Patch) -> None:
    """What it said may have been lost."""
    tick = follower._STEPS[follow.OwnTick]
    patch.setitem(follower._STEPS, follow.OwnTick, lambda state, event: tick(replace(state, asked=event.at), event))


def a_broken_connection_is_told_once(patch: Patch) -> None:
    tick = follower._STEPS[follow.OwnTick]
    changed = lambda state, event: tick(replace(state, complained=event.at), event)  # noqa: E731
    patch.setitem(follower._STEPS, follow.OwnTick, changed)


def old_heartbeats_count(patch: Patch) -> None:
    patch.setattr(Beat, "is_after", lambda self, other: True)


def old_announcements_count(patch: Patch) -> None:
    patch.setattr(Announcement, "is_after", lambda self, other: self != other)


def silent_ranks_stay(patch: Patch) -> None:
    patch.setattr(Roster, "look", lambda self, now: self)


def a_rank_is_whoever_has_it(patch: Patch) -> None:
    """A process is taken for the one that had its rank before."""
    patch.setattr(Roster, "holds", lambda self, rank, incarnation: self.holders[rank] is not None)


def who_is_no_member_enters(patch: Patch) -> None:
    def follow_anyway(state: Any, heard: Any) -> Any:
        members = {**heard.members, state.rank: state.incarnation}
        return real(replace(state, heard=replace(heard, members=members)), heard)

    real: Callable[..., Any] = follower._follow
    patch.setattr(follower, "_follow", follow_anyway)


def complaints_outlive_their_epoch(patch: Patch) -> None:
    def form(state: Any, route: Any, now: float) -> Any:
        after, actions = real(state, route, now)
        return replace(after, roster=replace(after.roster, suspicions=state.roster.suspicions)), actions

    real: Callable[..., Any] = leader._form
    patch.setattr(leader, "_form", form)


def a_rank_that_is_out_does_not_notice(patch: Patch) -> None:
    patch.setitem(follower._STEPS, follow.VerdictCame, lambda state, event: (state, ()))


def an_epoch_keeps_its_number(patch: Patch) -> None:
    def form(state: Any, route: Any, now: float) -> Any:
        return real(replace(state, number=max(0, state.number - 1)), route, now)

    real: Callable[..., Any] = leader._form
    patch.setattr(leader, "_form", form)


def a_process_that_was_lost_comes_again(patch: Patch) -> None:
    """By a request of its own that is read twice."""
    patch.setattr(Roster, "_spend", lambda self, incarnation, verdict: self)


def ranks_need_no_shard(patch: Patch) -> None:
    patch.setattr(Member, "ready", property(lambda self: True))


def late_heartbeats_of_the_dead_count(patch: Patch) -> None:
    patch.setitem(follower._STEPS, follow.HolderGone, lambda state, event: (state, ()))


def results_of_an_old_epoch_are_taken(patch: Patch) -> None:
    patch.setattr(Flight, "_check", lambda self, epoch: None)


def whoever_hears_the_end_ends_well(patch: Patch) -> None:
    def announcement(state: Any, event: Any) -> Any:
        if event.announcement.phase == DONE:
            return replace(state, over=True), (follow.FinishRank(),)
        return real(state, event)

    real = follower._STEPS[follow.AnnouncementCame]
    patch.setitem(follower._STEPS, follow.AnnouncementCame, announcement)


def the_end_is_said_once(patch: Patch) -> None:
    def repeated(state: Any, now: float) -> Any:
        return (state, ()) if state.phase is leader.Phase.PARTING else real(state, now)

    real: Callable[..., Any] = leader._repeated
    patch.setattr(leader, "_repeated", repeated)


def rank_0_waits_for_nobody(patch: Patch) -> None:
    def part(state: Any, now: float) -> Any:
        everybody = frozenset(range(state.rules.num_ranks))
        return real(replace(state, arrived=everybody) if state.phase is leader.Phase.PARTING else state, now)

    real: Callable[..., Any] = leader._part
    patch.setattr(leader, "_part", part)


def a_verdict_of_before_counts(patch: Patch) -> None:
    def verdict(state: Any, event: Any) -> Any:
        return real(state, replace(event, incarnation=state.incarnation))

    real = follower._STEPS[follow.VerdictCame]
    patch.setitem(follower._STEPS, follow.VerdictCame, verdict)


def a_connection_of_before_breaks(patch: Patch) -> None:
    def link_broke(state: Any, event: Any) -> Any:
        return real(state, replace(event, number=state.number))

    real = follower._STEPS[follow.LinkBroke]
    patch.setitem(follower._STEPS, follow.LinkBroke, link_broke)


def complaints_of_before_count(patch: Patch) -> None:
    def take(self: Roster, suspicion: Any, number: int | None) -> Roster:
        return real(self, suspicion, suspicion.number)

    real: Callable[..., Roster] = Roster.take_suspicion
    patch.setattr(Roster, "take_suspicion", take)


def signs_of_another_process_count(patch: Patch) -> None:
    def take(self: Roster, rank: int, link: str, at: float, more_s: float) -> Roster:
        member = self.holders[rank]
        known = link if member is None or member.beat is None else member.beat.link
        return real(self, rank, known, at, more_s)

    real: Callable[..., Roster] = Roster.take_sign
    patch.setattr(Roster, "take_sign", take)


def epochs_overlap(patch: Patch) -> None:
    """The next one begins while members are in the one before."""
    patch.setattr(leader, "_all_left", lambda state, epoch, now: (state, True))


def the_store_is_never_silent(patch: Patch) -> None:
    patch.setattr(follower, "store_silent_s", lambda state, now: 0.0)


def the_slowest_route_is_taken(patch: Patch) -> None:
    patch.setattr(leader, "max", min, raising=False)


def rank_0_is_never_silent(patch: Patch) -> None:
    """Its store may answer while its own threads hang."""
    patch.setitem(follower._STEPS, follow.LeaderBeat, lambda state, event: (state, ()))


def who_loads_has_no_more_time(patch: Patch) -> None:
    def look(self: Roster, now: float) -> Roster:
        return real(replace(self, rules=replace(self.rules, timeout_s=0.0)), now)

    real: Callable[..., Roster] = Roster.look
    patch.setattr(Roster, "look", look)


MUTATIONS = (
    announcements_are_said_once, a_rank_asks_once, a_broken_connection_is_told_once, old_heartbeats_count,
    old_announcements_count, silent_ranks_stay, a_rank_is_whoever_has_it, who_is_no_member_enters,
    complaints_outlive_their_epoch, a_rank_that_is_out_does_not_notice, an_epoch_keeps_its_number,
    a_process_that_was_lost_comes_again, ranks_need_no_shard, late_heartbeats_of_the_dead_count,
    results_of_an_old_epoch_are_taken, whoever_hears_the_end_ends_well, the_end_is_said_once, rank_0_waits_for_nobody,
    a_verdict_of_before_counts, a_connection_of_before_breaks, complaints_of_before_count,
    signs_of_another_process_count, epochs_overlap, the_store_is_never_silent, the_slowest_route_is_taken,
)  # fmt: skip


def first_found(most_runs: int) -> tuple[int, str] | None:
    """The first seed whose run goes wrong, and how."""
    for seed in range(most_runs):
        try:
            cluster = random_run(seed)
        except AssertionError as error:
            return seed, str(error)
        if not cluster.finished:
            return seed, f"the run ended: {cluster.failure}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_deliberate_fault_is_found(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    found = first_found(MOST_RUNS)
    assert found is not None
    print(f"{mutate.__name__}: {found[1]}")


def test_faults_that_two_scenarios_find(monkeypatch: Patch) -> None:
    """What random runs do not come to: rank 0 hangs, and a rank loads for long."""
    with monkeypatch.context() as patch:
        rank_0_is_never_silent(patch)
        with pytest.raises(AssertionError):
            hung_leader()
    with monkeypatch.context() as patch:
        who_loads_has_no_more_time(patch)
        with pytest.raises(AssertionError):
            long_load()
