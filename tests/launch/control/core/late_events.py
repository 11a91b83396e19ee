"""Events that come late: what they are about is over, and nothing may follow from them. Of real steps, on copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgelaunch.control.core import follower, leader
from edgelaunch.control.core import follower_events as follow
from edgelaunch.control.core import leader_events as leading
from edgelaunch.control.core.membership import DONE, Announcement, Beat, Suspicion, Verdict

__all__ = ["taken_by_follower", "taken_by_leader"]


def taken_by_follower(state: follower.FollowerState, clock: float) -> Iterator[str]:
    """The late events from which something follows; none, where all is well."""
    number = state.number
    late: list[Any] = [
        follow.VerdictCame("another", Verdict.OUT, "a third"),
        follow.LinkBroke(clock, number - 1, 0, ""),
    ]
    if not state.inside:
        late.append(follow.LinkBroke(clock, number, 0, "closed"))
    if state.heard is not None:
        late += [follow.AnnouncementCame(state.heard), follow.AnnouncementCame(replace(state.heard, number=number - 1))]
    if state.is_member:
        late.append(follow.HolderGone("another"))
    for event in late:
        after, actions = follower.step(state, event)
        if after != state or actions:
            yield f"{event}: {actions}"
    if state.heard is not None:
        yield from _not_meant(state, state.heard)


def _not_meant(state: follower.FollowerState, heard: Announcement) -> Iterator[str]:
    """The end of the run that is said to the others: a process that is no member does not take it for its own."""
    members = {**heard.members, state.rank: "another"}
    done = replace(heard, number=heard.number + 1, phase=DONE, members=members)
    after, actions = follower.step(state, follow.AnnouncementCame(done))
    if after.over or any(isinstance(action, follow.FinishRank) for action in actions):
        yield f"{done}: {actions}"


def taken_by_leader(state: Any, clock: float) -> Iterator[str]:
    """The same of rank 0."""
    late: list[Any] = []
    number = state.epoch.number if state.epoch is not None else None
    for other in {state.number - 1, state.number + 1} - {number}:
        late.append(leading.SuspicionCame(clock, Suspicion(rank=1, number=other, lost=0, reason="closed")))
    for rank, member in enumerate(state.roster.holders):
        if rank and member is not None:
            late.append(leading.SignCame(rank, "link of another", clock, 0.0))
            late.append(leading.BeatCame(clock, rank, _before(member.beat, member.incarnation)))
    if state.phase is not leader.Phase.COLLECTING:
        late.append(leading.SummaryCame(1))
    if state.phase is not leader.Phase.PARTING:
        late.append(leading.ByeCame(1))
    for event in late:
        after, actions = leader.step(state, event)
        if after != state or actions:
            yield f"{event}: {actions}"


def _before(beat: Beat | None, incarnation: str) -> Beat:
    """One that cannot be news: of another process, where there was none."""
    if beat is None:
        return Beat(incarnation="another", count=1, left=0, ready=True, link="link of another")
    return replace(beat, left=max(0, beat.left - 1))
