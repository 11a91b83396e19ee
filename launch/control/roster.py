"""Rank 0's list of present ranks, updated from their heartbeats. Uses no clock and no store of its own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from edgecompile.contract.plan import Plan
from edgelaunch.common.detection import STORE_PATIENCE, silence_s
from edgelaunch.common.failures import rank_name
from edgelaunch.common.plan_parts import Pair, links_watched
from edgelaunch.control.membership import Beat, Hello, Holder, Leave, Suspicion
from edgelaunch.control.pace import Pace
from edgelaunch.process.processes import Process

__all__ = ["LATE", "Loss", "Roster", "RankState"]

LATE = "the run is over: this rank joined after the last result and did nothing: start it again for the next run"
"""The verdict on whoever comes then."""


ALIVE = 0.7
"""Of the time after which a link is silent: a rank that showed itself within it is alive."""
SETTLED = 0.3
"""Of that time: so much later all of a rank's links are known to be silent, if one is because the rank is gone."""


@dataclass
class RankState:
    """A rank that is there."""

    incarnation: str
    process: Process
    changed: float
    """When its last beat came, seconds on the monotonic clock."""
    signed: float | None = None
    """When its process last wrote over its link to rank 0."""
    more_s: float = 0.0
    """So much longer may it be silent than where its link were fast."""
    beat: Beat | None = None
    pace: Pace = field(default_factory=Pace)

    @property
    def alive(self) -> float:
        """When its process last showed that it is there."""
        return self.changed if self.signed is None else max(self.changed, self.signed)

    @property
    def ready(self) -> bool:
        return self.beat is not None and self.beat.ready

    @property
    def left(self) -> int:
        return self.beat.left if self.beat is not None else 0


@dataclass(frozen=True)
class Loss:
    """A rank that was present and no longer is."""

    rank: int
    reason: str
    """In words, to follow the rank's name."""
    silent_process: int | None
    """Where its heartbeats stopped: its process, which may still be there; None where a connection of it broke."""


@dataclass
class _Waiting:
    hello: Hello
    since: float
    num_beats: int = 0
    """Beats of the process that has the rank, since this one asked for it."""


@dataclass
class Roster:
    """Fed by rank 0's watch thread, read by its main thread."""

    plan: Plan
    sha256: str
    verdicts: dict[str, str] = field(default_factory=dict)
    """By incarnation, to be published: "" for one that is out and may ask again, else why it is rejected."""
    holders: dict[str, Holder] = field(default_factory=dict)
    """By incarnation, to be published: who has the place that it asks for."""
    wrong_plan: int | None = None
    """A rank that came with another plan."""
    _closed: bool = False
    _spent: set[str] = field(default_factory=set)
    """Incarnations that have had a place, or were rejected: none of them comes again."""
    own_link: str = ""
    """Rank 0's own identity on links, and those whose links to it do not carry."""
    own_silent: tuple[str, ...] = ()
    _silent_since: dict[Pair, float] = field(default_factory=dict)
    _seats: dict[int, RankState] = field(default_factory=dict)
    _waiting: dict[int, _Waiting] = field(default_factory=dict)
    _losses: list[Loss] = field(default_factory=list)
    _suspicions: list[Suspicion] = field(default_factory=list)
    _remarks: list[str] = field(default_factory=list)
    _remarked: set[str] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def remark(self, text: str) -> None:
        """Something to be logged, once."""
        with self._lock:
            if text not in self._remarked:
                self._remarked.add(text)
                self._remarks.append(text)

    # --- the main thread's side --------------------------------------------------------------------------------------

    def states(self) -> dict[int, RankState]:
        with self._lock:
            return dict(self._seats)

    def take_losses(self) -> list[Loss]:
        """Those since the last call."""
        with self._lock:
            losses, self._losses = self._losses, []
            return losses

    def take_remarks(self) -> list[str]:
        """Those since the last call."""
        with self._lock:
            remarks, self._remarks = self._remarks, []
            return remarks

    def suspicions(self, number: int) -> list[Suspicion]:
        """What was said of one epoch; older ones are forgotten."""
        with self._lock:
            self._suspicions = [item for item in self._suspicions if item.number >= number]
            return [item for item in self._suspicions if item.number == number]

    def lose(self, rank: int, reason: str, *, silent: bool = True) -> None:
        with self._lock:
            state = self._seats.pop(rank, None)
            if state is None:
                return
            self.verdicts[state.incarnation] = ""
            self._spent.add(state.incarnation)
            self._losses.append(Loss(rank, reason, state.process.number if silent else None))
            waiting = self._waiting.pop(rank, None)
            if waiting is not None:
                self._seats[rank] = RankState(waiting.hello.incarnation, waiting.hello.process, waiting.since)

    def close(self) -> dict[str, str]:
        """Turns away whoever waits for a place or comes from now on; returns the verdicts that are to be published."""
        with self._lock:
            self._closed = True
            for waiting in self._waiting.values():
                self._turn_away(waiting.hello)
            self._waiting.clear()
            verdicts, self.verdicts = self.verdicts, {}
            return verdicts

    def suspect(self, suspicion: Suspicion) -> None:
        with self._lock:
            self._suspicions.append(suspicion)

    def silent_links(self, now: float) -> dict[Pair, bool]:
        """The links that do not carry, as one of their ends says, between ranks that are there.

        With each whether it is the link: both ends have shown themselves to rank 0 lately, or to a third rank, or else
        one of them may be gone.
        """
        silence = silence_s(self.plan.runtime.detect_s)
        with self._lock:
            beats = {rank: state.beat for rank, state in self._seats.items() if state.beat is not None}
            ranks = {self.own_link: 0, **{beat.link: rank for rank, beat in beats.items()}}
            said = {0: self.own_silent, **{rank: beat.silent for rank, beat in beats.items()}}
            pairs = {frozenset((rank, ranks[other])) for rank in said for other in said[rank] if other in ranks}
            self._silent_since = {pair: self._silent_since.get(pair, now) for pair in pairs}
            alive = {
                0,
                *(rank for rank, state in self._seats.items() if now - state.alive <= ALIVE * silence + state.more_s),
            }
            links = {rank: link for link, rank in ranks.items()}

            def is_vouched_for(rank: int, other: int) -> bool:
                thirds = links_watched(self.plan, rank) & alive - {other}
                return rank in alive or any(links[rank] not in said.get(third, ()) for third in thirds)

            found = {}
            for pair, since in self._silent_since.items():
                first, second = pair
                settled = pair <= alive or now - since >= SETTLED * silence  # what a third has to say may come later
                found[pair] = settled and is_vouched_for(first, second) and is_vouched_for(second, first)
            return found

    # --- the watch thread's side -------------------------------------------------------------------------------------

    def take_hello(self, hello: Hello, now: float) -> None:
        with self._lock:
            name = rank_name(self.plan, hello.rank)
            if hello.incarnation in self._spent:
                return  # an old one, replayed
            if self._closed:
                self.verdicts[hello.incarnation] = LATE
            elif not 0 < hello.rank < len(self.plan.hosts):
                self.verdicts[hello.incarnation] = f"the plan has no {name} to join"
            elif hello.sha256 != self.sha256:
                self.wrong_plan = hello.rank
                self.verdicts[hello.incarnation] = f"{name} has another plan than rank 0: copy the same plan to both"
            elif hello.rank not in self._seats:
                self._seats[hello.rank] = RankState(hello.incarnation, hello.process, now)
            elif self._seats[hello.rank].incarnation != hello.incarnation:
                before = self._waiting.get(hello.rank)
                if before is not None and before.hello.incarnation != hello.incarnation:
                    self._turn_away(before.hello)
                self._waiting[hello.rank] = _Waiting(hello, now)
                state = self._seats[hello.rank]
                self.holders[hello.incarnation] = Holder(incarnation=state.incarnation, process=state.process)

    def take_leave(self, leave: Leave) -> None:
        """Of a rank that goes, or whose successor found that its process has ended."""
        with self._lock:
            state, waiting = self._seats.get(leave.rank), self._waiting.get(leave.rank)
            if waiting is not None and waiting.hello.incarnation == leave.incarnation:
                self._spent.add(self._waiting.pop(leave.rank).hello.incarnation)
            elif state is not None and state.incarnation == leave.incarnation:
                self.lose(leave.rank, leave.reason, silent=False)

    def take_beat(self, rank: int, beat: Beat, now: float) -> None:
        with self._lock:
            state = self._seats.get(rank)
            if state is None or state.incarnation != beat.incarnation:
                return  # written by a process that has lost its place, perhaps long ago
            if beat.is_after(state.beat):
                state.beat, state.changed = beat, now
                state.pace.add(beat.load)
                waiting = self._waiting.get(rank)
                if waiting is not None:
                    waiting.num_beats += 1
                    if waiting.num_beats > 1:  # the first one may be from before
                        self._turn_away(self._waiting.pop(rank).hello)

    def take_sign(self, rank: int, link: str, at: float, more_s: float) -> None:
        """A rank's process, by its identity on links, wrote over its link to rank 0; `more_s` as in Seat."""
        with self._lock:
            state = self._seats.get(rank)
            if state is not None and state.beat is not None and state.beat.link == link:
                state.signed, state.more_s = at, more_s

    def look(self, now: float) -> None:
        """Finds the ranks that have been silent for too long."""
        with self._lock:
            for rank, state in list(self._seats.items()):
                silent_s = now - state.alive
                runtime = self.plan.runtime
                limit_s = runtime.detect_s if state.ready else max(runtime.detect_s, runtime.timeout_s)
                limit_s += state.more_s
                if now - state.changed > STORE_PATIENCE * limit_s:
                    silent_s = now - state.changed
                if silent_s > limit_s:
                    self.lose(rank, f"stopped answering {silent_s:.1f} s ago")

    def forgive(self, now: float) -> None:
        """This process itself stood still for a while: no rank is silent because of that."""
        with self._lock:
            for state in self._seats.values():
                state.changed = now
                state.signed = None

    def _turn_away(self, hello: Hello) -> None:
        self._spent.add(hello.incarnation)
        self.verdicts[hello.incarnation] = (
            f"{rank_name(self.plan, hello.rank)} is already running: start each rank once"
        )
