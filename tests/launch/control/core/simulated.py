"""A whole cluster from a seed: the real core of every rank, and a simulated store, network, processes and clocks.

What is simulated, and how finely:

- Every process runs rounds, as the watch thread and the main thread do: it reads the store, feeds its core, carries out
  what that decides. A read is a moment; a write arrives later, in the order of its process unless a fault says
  otherwise. A process is stopped, killed or cut off between two rounds, never within one.
- News is a list whose places are given out first and filled later; the reader passes over a place that stays empty.
- A link carries or does not. Who is silent on a link is known `silence_s` later, as a kernel's acknowledgements tell:
  those of a stopped process still come, those of one that is gone do not. Without its way to rank 0 a process has no
  store, and its calls hang.
- Each process reads a clock of its own, with an offset and jumps.
- Of microbatches only what rank 0 sees is simulated: they are taken from the real Flight, and their results come a
  moment later if every rank of the route is still in the epoch, and its links carry.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from late_events import taken_by_follower, taken_by_leader

from edgelaunch.common.failures import Abandoned
from edgelaunch.control.core import follower, leader
from edgelaunch.control.core import follower_events as follow
from edgelaunch.control.core import leader_events as leading
from edgelaunch.control.core.leader import GRACE_S
from edgelaunch.control.core.leader_state import LeaderState, Phase
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
from edgelaunch.control.core.rules import Route, Rules
from edgelaunch.control.core.run_events import (
    LeaderSilent,
    NoResult,
    NotBack,
    NotHealed,
    RankJoined,
    RankLost,
    Rejected,
    Rejoins,
    StoreSilent,
)
from edgelaunch.pipeline.in_flight import Batch, Flight
from edgelaunch.store.list_reader import ListReader

__all__ = ["Cluster", "Violation", "rules_of"]

POLL_S, URGENT_S = 0.5, 0.1
LATENCY_S = 0.02
RESTART_S = 0.4
"""From a process's end to its successor's first word."""
LOAD_S = 1.5
CONNECT_S = 3.0
FLOW_S = 0.25
MOST_IN_FLIGHT = 4
FIRST_JOIN_S = 30.0


class Violation(AssertionError):
    """An invariant does not hold; the message says which, and of what seed."""


def rules_of(num_ranks: int, spares: bool, *, detect_s: float = 2.0, rejoin_s: float = 500.0) -> Rules:
    """A chain of one stage a rank; `spares`: with a route for the loss of each rank but 0."""
    full = tuple(range(num_ranks))

    def route(lost: int | None, rate: float) -> Route:
        ranks = tuple(0 if rank == lost else rank for rank in full)
        around = (*ranks, 0)
        links = {frozenset(pair) for pair in itertools.pairwise(around) if pair[0] != pair[1]}
        links |= {frozenset((0, rank)) for rank in ranks if rank}
        name = None if lost is None else f"host-{lost}"
        return Route(name, lost, ranks, tuple(sorted({0, *ranks})), frozenset(links), rate)

    routes = [route(None, 10.0)]
    if spares:
        routes += [route(lost, 10.0 - lost) for lost in full[1:]]
    watched = []
    for rank in full:
        pairs = set().union(*(item.links for item in routes)) | {frozenset((0, other)) for other in full[1:]}
        watched.append(frozenset(other for pair in pairs if rank in pair for other in pair - {rank}))
    return Rules(
        num_ranks=num_ranks, sha256="plan", routes=tuple(routes), watched=tuple(watched), detect_s=detect_s,
        rejoin_s=rejoin_s, timeout_s=8 * detect_s, silence_s=0.55 * detect_s, beat_s=detect_s / 4,
    )  # fmt: skip


def order_of(announcement: Announcement) -> tuple[int, int]:
    """Of two announcements the one with the higher number was made later."""
    return announcement.number, (RUN, HALT, DONE).index(announcement.phase)


@dataclass(eq=False)
class Node:
    """A process."""

    rank: int
    pid: int
    offset: float
    """What its clock shows more than the simulation's."""
    state: Any = None
    """Of its core."""
    alive: bool = True
    stopped: bool = False
    hung: bool = False
    """Its own threads do nothing, while what others read of it, such as rank 0's store, is served."""
    last_answer: float = 0.0
    last_tick: float = 0.0
    heard: float = 0.0
    """Since when it counts rank 0's silence: from its start, or from when it noticed that it had stood still."""
    next_beat: float = 0.0
    count: int = 0
    outbox: list[Any] = field(default_factory=list)
    written: float = 0.0
    """When its last write arrives."""
    epoch: int = 0
    """The one that it takes part in; 0: none."""
    complete: bool = False
    silent: tuple[str, ...] = ()
    scheduled: int = 0
    """The number of its next round, so that none is run twice."""
    lagging_s: float = 0.0
    """Its writes are late by so much."""
    loses_next: bool = False
    """What it says next never comes."""

    @property
    def link(self) -> str:
        return f"link-{self.pid}"

    @property
    def runs(self) -> bool:
        return self.alive and not self.stopped


class Cluster:
    """`run` a while, cause faults, `settle`, and `finish`; raises Violation as soon as an invariant does not hold."""

    def __init__(self, seed: int, rules: Rules, *, restarts: bool = True, trace: Callable[[str], None] | None = None):
        """`restarts`: a parent starts each rank again that ended. `trace` is told every event and action."""
        self.seed, self.rules, self.restarts, self.trace = seed, rules, restarts, trace
        self.random = random.Random(seed)
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self.keys: dict[str, Any] = {}
        self.news: list[Any] = []
        self.told: list[Any] = []
        self.num_read = 0
        """Places that are given out; None: not filled yet."""
        self._reader = ListReader(self, "news", rules.detect_s)
        self.cut: dict[frozenset[int], float] = {}
        """Links that do not carry, and since when."""
        self.gone: dict[int, float] = {}
        """Ranks without a process, and since when."""
        self._pid = 100
        self.nodes: list[Node] = []
        self.twins = 0
        self.same_machine = self.random.random() < 0.5
        """Whether a process can see that another one has ended."""
        self.late_write = -1000.0
        """When something arrived last that a process wrote which has ended since."""
        self.joined: set[str] = set()
        """Incarnations that have had a rank."""
        self.hides_next_announcement = False
        self.lost: list[int] = []
        """Ranks that rank 0 took for lost."""
        self.ended: list[tuple[int, Any]] = []
        """Ranks that ended for a reason, and which."""
        self.flight = Flight()
        self.num_fed = self.num_results = 0
        self.draining = False
        self.settled_s = 0.0
        """From the last fault to the next result."""
        self.finished = False
        self.failure: Any = None
        self.announced: list[Announcement] = []
        self.halted = 0.0
        """When the last epoch was halted, by rank 0's clock."""
        self.owners: dict[tuple[int, int], int] = {}
        self.connected: set[int] = set()
        """Processes that are connected in the epoch that they are in."""
        self.last_result = 0.0
        self.faults_since_result = 0
        self.leader_trouble = 0.0
        """Until when rank 0 may seem to be gone, and shortly after."""
        self.leader = self._started(0)
        for rank in range(1, rules.num_ranks):
            self._started(rank)
        self.at(FLOW_S, self._flow)

    # --- time --------------------------------------------------------------------------------------------------------

    def at(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._order, call, arguments))

    def run(self, seconds: float) -> None:
        """Lets time go by."""
        until = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= until and not self.finished and self.failure is None:
            self.now, _, call, arguments = heapq.heappop(queue)
            call(*arguments)
        if not self.finished and self.failure is None:
            self.now = until

    def settle(self, within_s: float) -> float:
        """Until a new result comes; how long that took. Violation: none came."""
        begin, before = self.now, self.num_results
        while self.num_results == before:
            if self.failure is not None or self.finished:
                return self.now - begin
            self.check(self.now - begin <= within_s, f"no result within {within_s:.1f} s after the last fault")
            self.run(0.5)
        return self.now - begin

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violation(f"seed {self.seed}, {self.now:.2f} s: {what}")

    # --- processes ---------------------------------------------------------------------------------------------------

    def _started(self, rank: int) -> Node:
        self._pid += 1
        node = Node(rank, self._pid, offset=self.random.uniform(0, 1000))
        clock = self.now + node.offset
        node.last_answer = node.last_tick = clock
        node.heard = self.now
        if rank == 0:
            node.state = LeaderState.of(self.rules, clock)
            self.nodes.append(node)
            self._feed_leader(leading.OwnLinks(node.link, ()), node)
        else:
            process = Process("board", node.pid, "1")
            node.state = follower.FollowerState.of(self.rules, rank, f"i{node.pid}", process, clock)
            self.nodes.append(node)
            self._feed(node, follow.Start(clock))
            self.at(LOAD_S * self.random.random(), self._loaded, node)
        self.gone.pop(rank, None)
        self._schedule(node, LATENCY_S * self.random.random())
        return node

    def _loaded(self, node: Node) -> None:
        if node.stopped:
            self.at(LOAD_S, self._loaded, node)
        elif node.alive:
            self._feed(node, follow.LoadedShard(True))

    def _schedule(self, node: Node, delay_s: float) -> None:
        node.scheduled += 1
        self.at(delay_s, self._round, node, node.scheduled)

    def holders(self, rank: int) -> list[Node]:
        return [node for node in self.nodes if node.rank == rank and node.alive]

    def end(self, node: Node) -> None:
        """A process is gone: its connections close."""
        if not node.alive:
            return
        node.alive = False
        self._leave_epoch(node)
        self.nodes.remove(node)
        if not self.holders(node.rank):
            self.gone[node.rank] = self.now
        if self.restarts and not self.finished:
            self.at(RESTART_S, self._restart, node.rank)

    def _restart(self, rank: int) -> None:
        if not self.holders(rank) and not self.finished:
            self._started(rank)

    # --- a process's round -------------------------------------------------------------------------------------------

    def _round(self, node: Node, number: int) -> None:
        if not node.alive or number != node.scheduled:
            return
        if node.stopped or node.hung:
            return  # scheduled again when it goes on
        clock = self.now + node.offset
        if node.rank == 0:
            self._leader_round(node, clock)
            urgent = node.state.recovering
        else:
            self._follower_round(node, clock)
            heard = node.state.heard if node.alive else None
            urgent = heard is None or heard.phase == HALT
        if node.alive:
            pause_s = URGENT_S if urgent else POLL_S
            self._schedule(node, pause_s * (0.75 + 0.5 * self.random.random()))

    def _leader_round(self, node: Node, clock: float) -> None:
        rules = self.rules
        if clock - node.last_answer > rules.detect_s / 2:
            self._feed_leader(leading.StoodStill(clock), node)
        self._note_links(node)
        due = self._read_news(node, clock) or clock >= node.next_beat or node.state.recovering
        if clock >= node.next_beat:
            node.next_beat = clock + rules.beat_s
            node.count += 1
            self.keys["beat/0"] = Beat(incarnation="leader", count=node.count, left=0, ready=True, link=node.link)
        for other in self.nodes:
            if other.rank and other.runs and frozenset((0, other.rank)) not in self.cut:
                self._feed_leader(leading.SignCame(other.rank, other.link, clock, 0.0), node)
        if due:
            for rank, member in enumerate(node.state.roster.holders):
                beat = self.keys.get(f"beat/{member.incarnation}") if member is not None else None
                if beat is not None and beat.is_after(member.beat):
                    stale = member.beat is not None and beat.count <= member.beat.count
                    self.check(not stale, f"rank 0 takes heartbeat {beat.count} of rank {rank} for a new one")
                    self._feed_leader(leading.BeatCame(clock, rank, beat), node)
            self._feed_leader(leading.Looked(clock), node)
        node.last_answer = clock
        self._feed_leader(leading.StoreAnswered(clock), node)
        if node.complete and node.state.phase is Phase.RUNNING and node.state.halted is None:
            self._feed_leader(leading.StreamEnded(clock), node)
        elif node.state.phase is Phase.COLLECTING:
            for other in self.nodes:
                if other.complete:
                    self._feed_leader(leading.SummaryCame(other.rank), node)
        elif node.state.phase is Phase.PARTING:
            for rank in range(1, rules.num_ranks):
                if f"bye/{rank}" in self.keys:
                    self._feed_leader(leading.ByeCame(rank), node)
        if self.failure is None and not self.finished:
            self._feed_leader(leading.Tick(clock, self.num_results), node)

    def _read_news(self, node: Node, clock: float) -> bool:
        due = False
        for text in self._reader.new(clock):
            due = True
            said = self.told[int(text)] if text else None
            if isinstance(said, Hello):
                self._feed_leader(leading.HelloCame(clock, said), node)
            elif isinstance(said, Leave):
                self._feed_leader(leading.LeaveCame(clock, said), node)
            elif isinstance(said, Suspicion):
                self._feed_leader(leading.SuspicionCame(clock, said), node)
        return due

    def _follower_round(self, node: Node, clock: float) -> None:
        if frozenset((0, node.rank)) in self.cut:  # the store's calls hang; the main thread does not
            self._tick(node, clock)
            silent_s = self.now - max(self.cut[frozenset((0, node.rank))], node.heard)
            self.check(
                not node.alive or silent_s <= 2 * self.rules.detect_s,
                f"rank {node.rank} has not heard rank 0 for {silent_s:.1f} s, and goes on",
            )
            return
        if not self.leader.runs and self.leader.stopped:
            self._tick(node, clock)  # nobody serves the store
            return
        rules = self.rules
        if clock - node.last_answer > rules.detect_s / 2:
            self._feed(node, follow.Paused(clock))
        self._note_links(node)
        for message in node.outbox:
            self._append(node, message)
        node.outbox = []
        if clock >= node.next_beat:
            node.next_beat = clock + rules.beat_s
            node.count += 1
            state = node.state
            beat = Beat(incarnation=state.incarnation, count=node.count, left=state.left, ready=state.ready,
                        link=node.link, silent=node.silent)  # fmt: skip
            self._write(node, f"beat/{state.incarnation}", beat)
        announcement = self.keys.get("announcement")
        if announcement is not None and announcement.is_after(node.state.heard):
            before = node.state.heard
            self._feed(node, follow.AnnouncementCame(announcement))
            stale = before is not None and order_of(announcement) < order_of(before)
            self.check(not stale, f"rank {node.rank} takes {announcement} after {before}")
        if node.alive and not node.state.over:
            state = node.state
            holder = self.keys.get(f"holder/{state.incarnation}") if self.same_machine else None
            news = holder is not None and holder.incarnation != state.gone
            if news and not state.is_member and self._has_ended(holder.process.number):
                self._feed(node, follow.HolderGone(holder.incarnation))
            verdict = self.keys.get(f"verdict/{state.incarnation}")
            if verdict is not None and state.verdict is None:
                self._pid += 1
                self._feed(node, follow.VerdictCame(state.incarnation, verdict, f"i{self._pid}"))
            self._feed(node, follow.LeaderBeat(clock, self.keys.get("beat/0")))
        if node.alive:
            node.last_answer = clock
            self._feed(node, follow.Answered(clock))
            self._tick(node, clock)

    def _tick(self, node: Node, clock: float) -> None:
        if clock - node.last_tick >= self.rules.detect_s / 2:
            node.heard = self.now
            self._feed(node, follow.Answered(clock))
        node.last_tick = clock
        if self.leader.runs and frozenset((0, node.rank)) not in self.cut:
            self._feed(node, follow.LeaderSign(clock, 0.0))
        if node.alive:
            self._feed(node, follow.OwnTick(clock))

    def _has_ended(self, pid: int) -> bool:
        return all(node.pid != pid for node in self.nodes)

    def _note_links(self, node: Node) -> None:
        """Whom it does not hear, as its links' thread finds out."""
        limit = self.now - self.rules.silence_s
        silent = []
        if self.cut or self.gone:
            for rank in sorted(self.rules.watched[node.rank]):
                if self.cut.get(frozenset((node.rank, rank)), self.now) < limit:
                    silent += [other.link for other in self.nodes if other.rank == rank]
        if tuple(silent) != node.silent:
            node.silent = tuple(silent)
            if node.rank == 0:
                self._feed_leader(leading.OwnLinks(node.link, node.silent), node)
            else:
                node.next_beat = 0.0

    # --- the store ---------------------------------------------------------------------------------------------------

    def _arrival(self, node: Node) -> float:
        delay_s = LATENCY_S * self.random.random() + node.lagging_s
        node.written = max(node.written, self.now + delay_s)
        return node.written - self.now

    def _write(self, node: Node, key: str, value: Any) -> None:
        self.at(self._arrival(node), self._put, node, key, value)

    def _put(self, node: Node, key: str, value: Any) -> None:
        self.keys[key] = value
        if not node.alive:
            self.late_write = self.now

    def _append(self, node: Node, message: Any) -> None:
        """Its place is given out now, its text comes later."""
        self.news.append(None)
        if node.loses_next:
            node.loses_next = False
            return
        self.at(self._arrival(node), self._fill, len(self.news) - 1, message)

    def _fill(self, place: int, message: Any) -> None:
        self.news[place] = message

    def num_appended(self, name: str) -> int:
        """For the reader of the news."""
        return len(self.news)

    def take(self, name: str, number: int) -> str | None:
        message = self.news[number - 1]
        if message is None:
            return None
        self.num_read = number
        self.told.append(message)
        return str(len(self.told) - 1)

    # --- cores -------------------------------------------------------------------------------------------------------

    def _feed_leader(self, event: Any, node: Node) -> None:
        before = node.state
        node.state, actions = leader.step(before, event)
        if self.trace is not None and (actions or not isinstance(event, QUIET)):
            self.trace(f"{self.now:7.2f} rank 0 <- {event}")
        for action in actions:
            if self.trace is not None:
                self.trace(f"{self.now:7.2f} rank 0 -> {action}")
            self._perform_leader(action, node)
        if actions:
            self._check_memory(node.state)
            for late in taken_by_leader(node.state, self.now + node.offset):
                self.check(False, f"rank 0 takes what is over: {late}")

    def _check_memory(self, state: LeaderState) -> None:
        roster, num_ranks = state.roster, self.rules.num_ranks
        pairs = num_ranks * (num_ranks + 1) // 2
        self.check(len(roster.spent) <= 1000, "the list of processes that had a rank grows without bound")
        self.check(len(state.troubles) <= 100, "the list of troubles grows without bound")
        self.check(len(roster.suspicions) <= num_ranks * (num_ranks + 1), "suspicions are kept without bound")
        self.check(len(state.cut) <= pairs and len(roster.silent_since) <= pairs, "cut links are kept without bound")
        self.check(len(roster.answers) + len(roster.losses) + len(roster.joined) <= 8 * num_ranks, "nobody takes note")
        self.check(self.flight.num_items() <= MOST_IN_FLIGHT, "more is under way than the pipeline holds")

    def _perform_leader(self, action: Any, node: Node) -> None:
        if isinstance(action, leading.Publish):
            answer = action.answer
            if answer.verdict is not None:
                self.keys[f"verdict/{answer.incarnation}"] = answer.verdict
            if answer.holder is not None:
                self.keys[f"holder/{answer.incarnation}"] = answer.holder
        elif isinstance(action, leading.Report) and isinstance(action.event, RankLost):
            self.lost.append(action.event.loss.rank)
        elif isinstance(action, leading.Report) and isinstance(action.event, RankJoined):
            incarnation = action.event.incarnation
            self.check(incarnation not in self.joined, f"{incarnation} gets a rank a second time")
            self.joined.add(incarnation)
        elif isinstance(action, leading.Begin):
            number, first, expected = action.number, self.flight.switch(action.number), self.num_results
            self.check(first == expected, f"epoch {number} begins at {first} in place of {expected}")
            for rank in self.rules.route(action.without).group[1:]:
                there = [other.state for other in self.nodes if other.rank == rank]
                lacking = [state for state in there if state.incarnation == action.members[rank] and not state.ready]
                self.check(not lacking, f"epoch {number} begins, and rank {rank} has no shard")
                inside = [other for other in self.nodes if other.epoch and other.rank == rank]
                early = [other for other in inside if other.state.incarnation == action.members[rank]]
                soon = self.now + node.offset - self.halted < GRACE_S
                self.check(not (early and soon), f"epoch {number} begins, and rank {rank} is still in an earlier one")
            members = {rank: name for rank, name in enumerate(action.members) if name is not None}
            self._announce(Announcement(number=number, phase=RUN, without=action.without, members=members, first=first))
            self._enter(node, self.announced[-1])
        elif isinstance(action, leading.Halt):
            self._announce(replace(self.announced[-1], phase=HALT))
            self.halted = self.now + node.offset
            self.flight.switch(0)
            self._leave_epoch(node)
        elif isinstance(action, leading.Announce):
            self.keys["announcement"] = self.announced[-1]
        elif isinstance(action, leading.Closing):
            members = {rank: name for rank, name in enumerate(action.members) if name is not None}
            self._announce(replace(self.announced[-1], phase=DONE, members=members))
        elif isinstance(action, leading.RequestKill):
            for other in list(self.nodes):
                if other.pid == action.process and self.restarts:
                    self.end(other)
        elif isinstance(action, leading.FinishRun):
            self.check(self.draining and self.flight.empty(), "the run ends and results are missing")
            members = set(self.announced[-1].members.values())
            left = [other for other in self.nodes if other.rank and other.state.incarnation in members]
            able = [other.rank for other in left if other.runs and frozenset((0, other.rank)) not in self.cut]
            self.check(not able, f"rank 0 ends before ranks {able}, which would have ended by themselves")
            self.finished = True
        elif isinstance(action, leading.EndRun):
            self._check_end(action.cause)
            self.failure = action.cause

    def _announce(self, announcement: Announcement) -> None:
        for other in self.announced[-2:]:
            self.check(announcement.is_after(other), f"{announcement} was announced after {other}")
        self.announced.append(announcement)
        hidden, self.hides_next_announcement = self.hides_next_announcement and len(self.announced) > 1, False
        self.keys["announcement"] = self.announced[-2] if hidden else announcement

    def _check_end(self, cause: Any) -> None:
        """A run may end badly only for what really happened."""
        if isinstance(cause, NoResult):
            self.check(self.faults_since_result > 0, f"{cause}, and there was no fault")
        elif isinstance(cause, NotBack):
            away = [at for rank, at in self.gone.items() if rank == cause.loss.rank]
            troubled = bool(away) or self.faults_since_result > 0
            self.check(troubled, f"{cause}, and the rank was there")
        elif isinstance(cause, NotHealed):
            self.check(self.faults_since_result > 0, f"{cause}, and the link carried")
        else:
            self.check(self.announced == [] or self.leader_trouble >= self.now, f"the run ended: {cause}")

    def _feed(self, node: Node, event: Any) -> None:
        before = node.state
        node.state, actions = follower.step(before, event)
        if self.trace is not None and (actions or not isinstance(event, QUIET)):
            self.trace(f"{self.now:7.2f} rank {node.rank} <- {event}")
        for action in actions:
            if self.trace is not None:
                self.trace(f"{self.now:7.2f} rank {node.rank} -> {action}")
            if isinstance(action, follow.Note) and isinstance(action.event, Rejoins):
                told = f"verdict/{before.incarnation}" in self.keys
                self.check(told, f"rank {node.rank} joins again, and {before.incarnation} was not told to")
            self._perform(node, action)
        if actions and not node.state.over:
            for late in taken_by_follower(node.state, self.now + node.offset):
                self.check(False, f"rank {node.rank} takes what is over: {late}")

    def _perform(self, node: Node, action: Any) -> None:
        if isinstance(action, follow.Say):
            node.outbox.append(action.message)
            if node.runs:
                self._schedule(node, LATENCY_S * self.random.random())
        elif isinstance(action, follow.BeatNow):
            node.next_beat = 0.0
        elif isinstance(action, follow.Enter):
            self._enter(node, action.announcement)
        elif isinstance(action, follow.LeaveEpoch):
            self._leave_epoch(node)
        elif isinstance(action, follow.FinishRank):
            last = self.announced[-1]
            meant = last.phase == DONE and last.members.get(node.rank) == node.state.incarnation
            self.check(meant, f"rank {node.rank} ends well, and {last} does not mean it")
            self.keys[f"bye/{node.rank}"] = True
            node.alive = False
            self.nodes.remove(node)
        elif isinstance(action, follow.EndRank):
            self.ended.append((node.rank, action.cause))
            self._check_rank_end(node, action.cause)
            self.end(node)

    def _check_rank_end(self, node: Node, cause: Any) -> None:
        if isinstance(cause, (LeaderSilent, StoreSilent)):
            own = frozenset((0, node.rank))
            self.check(self.leader_trouble >= self.now or own in self.cut, f"rank {node.rank} ended: {cause}")
        elif isinstance(cause, Rejected) and cause.verdict is Verdict.RUNS_ALREADY:
            late = self.now - self.late_write < 2 * self.rules.detect_s
            self.check(
                self.twins > 0 or (late and not self.same_machine),
                f"rank {node.rank} was turned away, and there is no other",
            )
        elif isinstance(cause, Rejected):
            self.check(cause.verdict is Verdict.LATE and self.draining, f"rank {node.rank} was turned away: {cause}")

    # --- epochs ------------------------------------------------------------------------------------------------------

    def _enter(self, node: Node, announcement: Announcement) -> None:
        number = announcement.number
        self.check(node.epoch == 0, f"rank {node.rank} enters epoch {number}, and is in epoch {node.epoch}")
        owner = self.owners.setdefault((number, node.rank), node.pid)
        self.check(owner == node.pid, f"epoch {number} has two owners of rank {node.rank}'s stage")
        node.epoch, node.complete = number, False
        route = self.rules.route(announcement.without)
        group = [other for other in self.nodes if other.epoch == number]
        if len(group) == len(route.group):
            cut = [pair for pair in route.links if pair in self.cut]
            if not cut:
                self.connected = {other.pid for other in group}
            else:
                for other in group:
                    if any(other.rank in pair for pair in cut):
                        self.at(CONNECT_S, self._broken, other, number, -1)

    def _leave_epoch(self, node: Node) -> None:
        """Its connections close, and the other ends see it."""
        number, node.epoch = node.epoch, 0
        self.connected.discard(node.pid)
        if not number:
            return
        for other in self.nodes:
            if other.epoch == number and frozenset((other.rank, node.rank)) not in self.cut:
                self.at(LATENCY_S * self.random.random(), self._broken, other, number, node.rank)

    def _broken(self, node: Node, number: int, lost: int) -> None:
        """A connection of an epoch broke, or did not come about, as this end sees it."""
        if not node.alive or node.epoch != number:
            return
        self.connected.discard(node.pid)
        if node.stopped:
            self.at(POLL_S, self._broken, node, number, lost)
            return
        clock = self.now + node.offset
        if node.rank == 0:
            suspicion = Suspicion(rank=0, number=number, lost=lost, reason="closed")
            self._feed_leader(leading.SuspicionCame(clock, suspicion), node)
        else:
            self._feed(node, follow.LinkBroke(clock, number, lost, "closed"))

    # --- items -------------------------------------------------------------------------------------------------------

    def _streams(self) -> bool:
        """Whether microbatches go round: all ranks of the epoch are in it and run, and its links carry."""
        if not self.leader.epoch or not self.leader.runs:
            return False
        route = self.rules.route(self.announced[-1].without)
        number = self.leader.epoch
        inside = [node for node in self.nodes if node.epoch == number and node.pid in self.connected and node.runs]
        return len(inside) == len(route.group) and not any(pair in self.cut for pair in route.links)

    def _flow(self) -> None:
        self.at(FLOW_S, self._flow)
        number = self.leader.epoch
        if not self._streams():
            return
        for batch in self.flight.under_way(number):
            self.at(FLOW_S / 2, self._result, number, batch.number)
        if self.flight.num_items() == 0 and not self.draining:
            for _ in range(2):
                self.flight.put(Batch(self.num_fed, items=[None]))  # type: ignore[list-item]
                self.num_fed += 1
                batch = self.flight.take(number)
                assert batch is not None
                self.at(FLOW_S / 2, self._result, number, batch.number)
        if self.draining and self.flight.empty():
            for node in self.nodes:
                node.complete = node.complete or node.epoch == number

    def _result(self, number: int, sequence: int) -> None:
        """A collector's thread hands a result in, perhaps one of an epoch that is over."""
        if number == self.leader.epoch and not self._streams():
            return
        if sequence < self.num_results and number == self.leader.epoch:
            return  # sent twice in one round of this simulation, not by the pipeline
        try:
            batch = self.flight.arrive(number, sequence)
        except Abandoned:
            self.check(number != self.leader.epoch, "a result of the epoch that runs was not taken")
            return
        self.check(number == self.leader.epoch, f"a result of epoch {number} was taken in {self.leader.epoch}")
        self.check(batch.number == self.num_results, f"result {batch.number} came in place of {self.num_results}")
        self.num_results += 1
        self.last_result = self.now
        self.faults_since_result = 0


QUIET = (
    leading.SignCame, leading.Looked, leading.StoreAnswered, leading.Tick, leading.BeatCame, follow.LeaderBeat,
    follow.LeaderSign, follow.Answered, follow.OwnTick,
)  # fmt: skip
