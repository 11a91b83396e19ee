"""A small cluster for the exhaustive search: the real cores in a model whose time goes by in units.

In each unit every process that runs has one round, in any order; then the time goes on by one unit. Between any two
rounds a fault may happen, until there were as many as are allowed. A round is one step: it reads the store, feeds the
core, and carries out what that decides, and what it writes is there at once. A process that ended is started again a
unit later, a stopped one goes on, and a cut link carries again, after one unit or after more than the time of
detection. Two states are the same if they differ only in when all began: in the numbers of epochs, heartbeats, items
and processes, and in ages beyond which nothing changes.

A result comes at the end of each unit in which all ranks of the route are in the epoch and its links carry.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from edgelaunch.control.core import follower, leader
from edgelaunch.control.core import follower_events as follow
from edgelaunch.control.core import leader_events as leading
from edgelaunch.control.core.leader_state import LeaderState
from edgelaunch.control.core.membership import HALT, RUN, Announcement, Beat, Hello, Leave, Process, Suspicion
from edgelaunch.control.core.rules import Rules

__all__ = ["KINDS", "World", "Wrong", "small_rules"]

DETECT = 2
SHORT, LONG = 1, DETECT + 2
LEAST_AGE = -100
KINDS = frozenset(("kill", "stop", "cut", "break", "drop"))


class Wrong(AssertionError):
    """An invariant does not hold; the message says which, and how the state was reached."""


def small_rules(num_ranks: int) -> Rules:
    """No spare routes, no end of patience: units of time in place of seconds."""
    from simulated import rules_of

    rules = rules_of(num_ranks, spares=False, detect_s=DETECT, rejoin_s=1e9)
    return replace(rules, timeout_s=2.0 * DETECT)


@dataclass(frozen=True, slots=True)
class Proc:
    """A process of a rank but 0."""

    pid: int
    state: Any
    epoch: int = 0
    outbox: tuple[Any, ...] = ()
    count: int = 0
    stopped: int = 0
    """For so many more units."""


@dataclass(slots=True)
class World:
    now: int
    leader: LeaderState
    procs: list[Proc | None]
    """By rank; rank 0's is None always."""
    leader_epoch: int = 0
    leader_count: int = 1
    leader_stopped: int = 0
    store: dict[str, Any] = field(default_factory=dict)
    news: list[Any] = field(default_factory=list)
    broken: frozenset[tuple[int, int, int]] = frozenset()
    """Rank, epoch, and the other end of a connection that broke, which the rank has yet to notice."""
    cut: dict[frozenset[int], tuple[int, int]] = field(default_factory=dict)
    """Links that do not carry: since when, and until when."""
    done: frozenset[int] = frozenset()
    """Who has had its round in this unit."""
    results: int = 0
    next_pid: int = 0
    owners: tuple[tuple[int, int, int], ...] = ()
    """Of the latest epoch: its number, rank and process."""

    def copy(self) -> World:
        return World(
            self.now, self.leader, list(self.procs), self.leader_epoch, self.leader_count, self.leader_stopped,
            dict(self.store), list(self.news), self.broken, dict(self.cut), self.done, self.results,
            self.next_pid, self.owners,
        )  # fmt: skip

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(self, rank: int) -> None:
        self.next_pid += 1
        pid = self.next_pid
        state = follower.FollowerState.of(self.leader.rules, rank, f"i{pid}", Process("board", pid, "1"), self.now)
        self.procs[rank] = Proc(pid, replace(state, ready=True))
        self.feed(rank, follow.Start(self.now))

    def end(self, rank: int) -> None:
        self.leave(rank)
        self.procs[rank] = None

    def present(self, rank: int) -> bool:
        return rank == 0 or self.procs[rank] is not None

    def epoch_of(self, rank: int) -> int:
        proc = self.procs[rank] if rank else None
        return self.leader_epoch if rank == 0 else (proc.epoch if proc is not None else 0)

    def runs(self, rank: int) -> bool:
        proc = self.procs[rank] if rank else None
        return not self.leader_stopped if rank == 0 else proc is not None and not proc.stopped

    # --- epochs ------------------------------------------------------------------------------------------------------

    def enter(self, rank: int, announcement: Announcement) -> None:
        number = announcement.number
        self.check(self.epoch_of(rank) == 0, f"rank {rank} enters epoch {number} from another one")
        proc = self.procs[rank] if rank else None
        pid = proc.pid if proc is not None else 0
        owners = tuple(item for item in self.owners if item[0] == number)
        self.check(all(item[1] != rank or item[2] == pid for item in owners), f"two owners of rank {rank}'s stage")
        self.owners = (*owners, (number, rank, pid)) if (number, rank, pid) not in owners else owners
        self.set_epoch(rank, number)

    def leave(self, rank: int) -> None:
        number = self.epoch_of(rank)
        if number:
            others = (other for other in range(len(self.procs)) if other != rank and self.epoch_of(other) == number)
            self.broken |= {(other, number, rank) for other in others if frozenset((other, rank)) not in self.cut}
            self.set_epoch(rank, 0)

    def set_epoch(self, rank: int, number: int) -> None:
        self.broken = frozenset(item for item in self.broken if item[0] != rank)
        proc = self.procs[rank] if rank else None
        if rank == 0:
            self.leader_epoch = number
        elif proc is not None:
            self.procs[rank] = replace(proc, epoch=number)

    # --- cores -------------------------------------------------------------------------------------------------------

    def feed(self, rank: int, event: Any) -> None:
        proc = self.procs[rank]
        if proc is None:
            return
        state, actions = follower.step(proc.state, event)
        self.procs[rank] = replace(proc, state=state)
        for action in actions:
            proc = self.procs[rank]
            if proc is None:
                return
            if isinstance(action, follow.Say):
                self.procs[rank] = replace(proc, outbox=(*proc.outbox, action.message))
            elif isinstance(action, follow.Enter):
                self.enter(rank, action.announcement)
            elif isinstance(action, follow.LeaveEpoch):
                self.leave(rank)
            elif isinstance(action, follow.EndRank):
                self.end(rank)

    def feed_leader(self, event: Any) -> None:
        self.leader, actions = leader.step(self.leader, event)
        for action in actions:
            if isinstance(action, leading.Publish):
                answer = action.answer
                if answer.verdict is not None:
                    self.store[f"verdict/{answer.incarnation}"] = answer.verdict
            elif isinstance(action, leading.Begin):
                members = {rank: name for rank, name in enumerate(action.members) if name is not None}
                announcement = Announcement(
                    number=action.number, phase=RUN, without=action.without, members=members, first=0
                )
                self.store["announcement"] = announcement
                self.enter(0, announcement)
            elif isinstance(action, leading.Halt):
                self.store["announcement"] = replace(self.store["announcement"], phase=HALT)
                self.leave(0)
            elif isinstance(action, leading.RequestKill):
                for rank, proc in enumerate(self.procs):
                    if proc is not None and proc.pid == action.process:
                        self.end(rank)
            elif isinstance(action, leading.EndRun):
                raise Wrong(f"the run ended: {action.cause}")

    # --- one round ---------------------------------------------------------------------------------------------------

    def round(self, rank: int) -> None:
        self.done |= {rank}
        if rank == 0:
            self.leader_round()
        else:
            self.follower_round(rank)

    def leader_round(self) -> None:
        now = self.now
        self.leader_count += 1
        self.notice_broken(0)
        silent = self.silent(0)
        if silent != self.leader.roster.own_silent or not self.leader.roster.own_link:
            self.feed_leader(leading.OwnLinks("link-0", silent))
        news, self.news = self.news, []
        for said in news:
            if isinstance(said, Hello):
                self.feed_leader(leading.HelloCame(now, said))
            elif isinstance(said, Leave):
                self.feed_leader(leading.LeaveCame(now, said))
            else:
                self.feed_leader(leading.SuspicionCame(now, said))
        for rank, proc in enumerate(self.procs):
            if proc is not None and not proc.stopped and frozenset((0, rank)) not in self.cut:
                self.feed_leader(leading.SignCame(rank, f"link-{proc.pid}", now, 0.0))
        for rank, member in enumerate(self.leader.roster.holders):
            beat = self.store.get(f"beat/{member.incarnation}") if member is not None else None
            if beat is not None:
                self.feed_leader(leading.BeatCame(now, rank, beat))
        self.feed_leader(leading.Looked(now))
        self.feed_leader(leading.StoreAnswered(now))
        self.feed_leader(leading.Tick(now, self.results))

    def follower_round(self, rank: int) -> None:
        now = self.now
        self.notice_broken(rank)
        proc = self.procs[rank]
        if proc is None:
            return
        if frozenset((0, rank)) not in self.cut and not self.leader_stopped:
            self.news += proc.outbox
            state, count = proc.state, proc.count + 1
            self.procs[rank] = replace(proc, outbox=(), count=count)
            self.store[f"beat/{state.incarnation}"] = Beat(
                incarnation=state.incarnation, count=count, left=state.left, ready=True, link=f"link-{proc.pid}",
                silent=self.silent(rank),
            )  # fmt: skip
            announcement = self.store.get("announcement")
            if announcement is not None and announcement.is_after(state.heard):
                self.feed(rank, follow.AnnouncementCame(announcement))
            verdict = self.store.get(f"verdict/{state.incarnation}")
            if verdict is not None and state.verdict is None:
                self.next_pid += 1
                self.feed(rank, follow.VerdictCame(state.incarnation, verdict, f"i{self.next_pid}"))
            beat = Beat(incarnation="0", count=self.leader_count, left=0, ready=True)
            self.feed(rank, follow.LeaderBeat(now, beat))
            self.feed(rank, follow.LeaderSign(now, 0.0))
            self.feed(rank, follow.Answered(now))
        self.feed(rank, follow.OwnTick(now))

    def notice_broken(self, rank: int) -> None:
        for item in sorted(self.broken):
            if item[0] != rank:
                continue
            _, number, lost = item
            self.broken -= {item}
            if self.epoch_of(rank) != number:
                continue
            if rank:
                self.feed(rank, follow.LinkBroke(self.now, number, lost, "closed"))
            else:
                said = Suspicion(rank=0, number=number, lost=lost, reason="closed")
                self.feed_leader(leading.SuspicionCame(self.now, said))

    def silent(self, rank: int) -> tuple[str, ...]:
        """Whom it has not heard for too long, by their identity on links."""
        found = []
        for pair, (since, _) in sorted(self.cut.items(), key=lambda item: sorted(item[0])):
            if rank in pair and self.now - since > self.leader.rules.silence_s:
                (other,) = pair - {rank}
                proc = self.procs[other] if other else None
                if other == 0 or proc is not None:
                    found.append(f"link-{proc.pid if proc is not None else 0}")
        return tuple(found)

    # --- time --------------------------------------------------------------------------------------------------------

    def may_go_on(self) -> bool:
        return all(rank in self.done or not self.runs(rank) for rank in range(len(self.procs)))

    def advance(self) -> bool:
        """One unit. Whether a result came in it."""
        came = self.streams()
        self.results += came
        self.now += 1
        self.done = frozenset()
        self.cut = {pair: ends for pair, ends in self.cut.items() if ends[1] > self.now}
        self.leader_stopped = max(0, self.leader_stopped - 1)
        if not self.leader_stopped and self.now - self.leader.store_answered > DETECT / 2:
            self.feed_leader(leading.StoodStill(self.now))
            self.feed_leader(leading.StoreAnswered(self.now))
        for rank, proc in enumerate(self.procs):
            if rank and proc is None:
                self.start(rank)
            elif proc is not None and proc.stopped:
                self.procs[rank] = replace(proc, stopped=proc.stopped - 1)
                if proc.stopped == 1 and self.now - proc.state.answered > DETECT / 2:
                    self.feed(rank, follow.Paused(self.now))
        return came

    def streams(self) -> bool:
        number = self.leader_epoch
        group = range(len(self.procs))
        return bool(number) and not self.cut and all(
            self.runs(rank) and self.epoch_of(rank) == number for rank in group
        ) and not self.broken  # fmt: skip

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            raise Wrong(what)

    # --- faults ------------------------------------------------------------------------------------------------------

    def faults(self, kinds: frozenset[str]) -> Iterator[tuple[str, World]]:
        """Every state that one more fault leads to."""
        ranks = range(len(self.procs))
        for rank in ranks:
            proc = self.procs[rank]
            if "kill" in kinds and proc is not None:
                world = self.copy()
                world.end(rank)
                yield f"kill {rank}", world
            if "drop" in kinds and proc is not None and proc.outbox:
                world = self.copy()
                world.procs[rank] = replace(proc, outbox=())
                yield f"drop what {rank} says", world
            for units in (SHORT, LONG) if "stop" in kinds and self.runs(rank) else ():
                world = self.copy()
                if proc is None:
                    world.leader_stopped = units
                else:
                    world.procs[rank] = replace(proc, stopped=units)
                yield f"stop {rank} for {units}", world
            for other in ranks:
                pair, number = frozenset((rank, other)), self.epoch_of(rank)
                for units in (SHORT, LONG) if "cut" in kinds and rank < other and pair not in self.cut else ():
                    world = self.copy()
                    world.cut[pair] = (self.now, self.now + units)
                    yield f"cut {rank}-{other} for {units}", world
                if "break" in kinds and rank != other and number and number == self.epoch_of(other):
                    world = self.copy()
                    world.broken |= {(rank, number, other)}
                    yield f"break {rank}-{other}", world

    # --- what makes two states the same ------------------------------------------------------------------------------

    def key(self) -> Hashable:
        return _Key(self).key()


class _Key:
    """Numbers that only count are replaced by where they stand to each other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._names: dict[str, int] = {}
        self._now = world.now

    def name(self, incarnation: str | None) -> int:
        if incarnation is None:
            return -1
        return self._names.setdefault(incarnation, len(self._names))

    def age(self, at: float | None, most: float) -> float:
        return LEAST_AGE if at is None else min(self._now - at, most)

    def key(self) -> Hashable:
        world, base = self._world, self._world.leader.number
        procs = tuple(self._proc(proc, base) for proc in world.procs)
        live = set(self._names)
        cut = tuple(sorted((tuple(sorted(pair)), min(self._now - since, DETECT), until - self._now)
                           for pair, (since, until) in world.cut.items()))  # fmt: skip
        announcement = self._announcement(world.store.get("announcement"), base)
        news = tuple(self._said(said, base) for said in world.news)
        broken = tuple(sorted((rank, base - number, lost) for rank, number, lost in world.broken))
        known = self._leader(world.leader, live)
        beats = tuple(
            (self.name(beat.incarnation), max(-1, base - beat.left) if base - beat.left < 2 else 2, beat.silent != (),
             self._count(beat))
            for key, beat in sorted(world.store.items()) if key.startswith("beat/") and beat.incarnation in live
        )  # fmt: skip
        verdicts = tuple(sorted((self.name(key[8:]), value.value) for key, value in world.store.items()
                                if key.startswith("verdict/") and key[8:] in live))  # fmt: skip
        leading_epoch = base - world.leader_epoch if world.leader_epoch else -1
        return (procs, known, cut, announcement, news, broken, tuple(sorted(beats)), verdicts, leading_epoch,
                world.leader_stopped, world.done)  # fmt: skip

    def _count(self, beat: Beat) -> int:
        for member in self._world.leader.roster.holders:
            if member is not None and member.incarnation == beat.incarnation and member.beat is not None:
                return min(2, beat.count - member.beat.count)
        return 3

    def _proc(self, proc: Proc | None, base: int) -> Hashable:
        if proc is None:
            return None
        state: follower.FollowerState = proc.state
        seen = state.leader.count if state.leader is not None else -1
        return (
            self.name(state.incarnation), base - proc.epoch if proc.epoch else -1,
            tuple(self._said(said, base) for said in proc.outbox), proc.stopped,
            min(2, base - state.left), min(2, base - state.number), state.inside,
            self._announcement(state.heard, base), state.heard == state.acted, self.age(state.asked, DETECT),
            state.verdict, self._said(state.broken, base), self.age(state.complained, 1),
            min(2, self._world.leader_count - seen), self.age(state.leader_changed, 5 * DETECT),
            self.age(state.signed, 5 * DETECT), self.age(state.answered, 5 * DETECT),
        )  # fmt: skip

    def _announcement(self, announcement: Announcement | None, base: int) -> Hashable:
        if announcement is None:
            return None
        members = tuple(self.name(announcement.members.get(rank)) for rank in range(1, len(self._world.procs)))
        return (min(3, base - announcement.number), announcement.phase, members)

    def _said(self, said: Any, base: int) -> Hashable:
        if said is None:
            return None
        if isinstance(said, Suspicion):
            return ("suspicion", said.rank, min(2, base - said.number), said.lost)
        return (type(said).__name__, said.rank, self.name(said.incarnation))

    def _leader(self, state: LeaderState, live: set[str]) -> Hashable:
        roster, base = state.roster, state.number
        holders = tuple(
            None if member is None else (
                self.name(member.incarnation), self.age(member.changed, 5 * DETECT),
                self.age(member.signed, 5 * DETECT),
                member.ready, min(2, base - member.left), member.beat is not None and member.beat.link,
                bool(member.beat and member.beat.silent),
            )
            for member in roster.holders
        )  # fmt: skip
        holders = tuple(
            member if member is None else (*member[:5], member[5] is not False, member[6]) for member in holders
        )
        waiting = tuple(item and (self.name(item.hello.incarnation), self.age(item.since, 1), item.num_beats)
                        for item in roster.waiting)  # fmt: skip
        spent = tuple(sorted((self.name(name), verdict.value) for name, verdict in roster.spent if name in live))
        silent = tuple((tuple(sorted(pair)), self.age(at, DETECT)) for pair, at in roster.silent_since)
        epoch = state.epoch and (tuple(self.name(member) for member in state.epoch.members),)
        suspicions = tuple(sorted((item.rank, item.lost) for item in roster.suspicions))
        return (
            holders, waiting, spent, silent, epoch, suspicions, roster.own_silent != (), self.age(state.halted, 1),
            self.age(state.said, 1), tuple(sorted(tuple(sorted(pair)) for pair, _ in state.cut)), state.attempts,
            max(0.0, state.not_before - self._now), self._world.results == state.num_items, base > 0,
            self.age(state.store_answered, 2 * DETECT),
        )  # fmt: skip
