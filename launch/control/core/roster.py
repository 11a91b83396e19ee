"""Rank 0's list of present ranks, updated from their heartbeats. Every method returns a new list."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgelaunch.common.detection import STORE_PATIENCE
from edgelaunch.common.plan_parts import Pair
from edgelaunch.control.core.membership import Beat, Hello, Holder, Leave, Process, Suspicion, Verdict
from edgelaunch.control.core.rules import Rules
from edgelaunch.control.core.run_events import Loss, LossKind

__all__ = ["AskedAgain", "Answer", "Roster", "Member"]

ALIVE = 0.7
"""Of the time after which a link is silent: a rank that showed itself within it is alive."""
SETTLED = 0.3
"""Of that time: so much later all of a rank's links are known to be silent, if one is because the rank is gone."""
MOST_SPENT = 1000
"""Processes that are remembered: a rank that crashes at once may be started again for days."""


@dataclass(frozen=True, slots=True)
class Member:
    """A rank that is there."""

    incarnation: str
    process: Process
    changed: float
    """When its last beat came, seconds."""
    signed: float | None = None
    """When its process last wrote over its link to rank 0."""
    more_s: float = 0.0
    """So much longer may it be silent than where its link were fast."""
    beat: Beat | None = None

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


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """A process that asks for a rank that another one has."""

    hello: Hello
    since: float
    num_beats: int = 0
    """Beats of the process that has the rank, since this one asked for it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """To be published for one process: its verdict, or who has the rank that it asks for."""

    rank: int
    incarnation: str
    verdict: Verdict | None = None
    holder: Holder | None = None


@dataclass(frozen=True, slots=True)
class Roster:
    """Tuples by rank have None where nobody is there, and for rank 0."""

    rules: Rules
    holders: tuple[Member | None, ...]
    waiting: tuple[AskedAgain | None, ...]
    spent: tuple[tuple[str, Verdict], ...] = ()
    """Processes that had a rank, or were rejected, with what they were told: none of them comes again."""
    answers: tuple[Answer, ...] = ()
    joined: tuple[tuple[int, str], ...] = ()
    losses: tuple[Loss, ...] = ()
    """Answers, ranks that came and ranks that were lost since they were last noted."""
    suspicions: frozenset[Suspicion] = frozenset()
    """Of the epoch that runs."""
    silent_since: tuple[tuple[Pair, float], ...] = ()
    own_link: str = ""
    """Rank 0's own identity on links, and those whose links to it do not carry."""
    own_silent: tuple[str, ...] = ()
    wrong_plan: int | None = None
    """A rank that came with another plan."""
    closed: bool = False

    @staticmethod
    def of(rules: Rules) -> Roster:
        nobody = (None,) * rules.num_ranks
        return Roster(rules, nobody, nobody)

    def holds(self, rank: int, incarnation: str | None) -> bool:
        """Whether this process itself has the rank."""
        member = self.holders[rank]
        return member is not None and member.incarnation == incarnation

    # --- who comes and goes ------------------------------------------------------------------------------------------

    def take_hello(self, hello: Hello, at: float) -> Roster:
        """A process asks for a rank, perhaps again: what it asks a second time changes nothing."""
        rank, incarnation = hello.rank, hello.incarnation
        told = next((verdict for name, verdict in self.spent if name == incarnation), None)
        if told is not None:
            return self._answered(Answer(rank, incarnation, told))
        if 0 < rank < self.rules.num_ranks:
            waiting = self.waiting[rank]
            if self.holds(rank, incarnation) or (waiting is not None and waiting.hello.incarnation == incarnation):
                return self
        verdict = self._refusal(hello)
        if verdict is not None:
            roster = self._turned_away(hello, verdict)
            return replace(roster, wrong_plan=rank) if verdict is Verdict.OTHER_PLAN else roster
        return self._given_place(hello, at)

    def _refusal(self, hello: Hello) -> Verdict | None:
        if self.closed:
            return Verdict.LATE
        if not 0 < hello.rank < self.rules.num_ranks:
            return Verdict.NO_SUCH_RANK
        return Verdict.OTHER_PLAN if hello.sha256 != self.rules.sha256 else None

    def _given_place(self, hello: Hello, at: float) -> Roster:
        """The rank itself, or the first place to get it next."""
        rank, incarnation = hello.rank, hello.incarnation
        member, before = self.holders[rank], self.waiting[rank]
        if member is None:
            return self._joined(rank, Member(incarnation, hello.process, at))
        roster = self if before is None else self._turned_away(before.hello, Verdict.RUNS_ALREADY)
        holder = Holder(incarnation=member.incarnation, process=member.process)
        roster = replace(roster, waiting=put(roster.waiting, rank, AskedAgain(hello, at)))
        return roster._answered(Answer(rank, incarnation, holder=holder))

    def take_leave(self, leave: Leave, at: float = 0.0) -> Roster:
        """Of a rank that goes, or whose successor found that its process has ended."""
        if not 0 < leave.rank < self.rules.num_ranks:
            return self
        waiting = self.waiting[leave.rank]
        if waiting is not None and waiting.hello.incarnation == leave.incarnation:
            return replace(self._spend(leave.incarnation, Verdict.OUT), waiting=put(self.waiting, leave.rank, None))
        if self.holds(leave.rank, leave.incarnation):
            kind = LossKind.STOPPED if leave.signal else LossKind.ENDED
            return self.lose(leave.rank, kind, signal=leave.signal, at=at)
        return self

    def lose(self, rank: int, kind: LossKind, *, silent_s: float = 0.0, signal: str = "", at: float = 0.0) -> Roster:
        """Whoever waits for the rank gets it."""
        member, waiting = self.holders[rank], self.waiting[rank]
        if member is None:
            return self
        loss = Loss(rank, kind, member.process.number, silent_s, signal)
        roster = self._spend(member.incarnation, Verdict.OUT)._answered(Answer(rank, member.incarnation, Verdict.OUT))
        roster = replace(roster, losses=(*roster.losses, loss), waiting=put(roster.waiting, rank, None))
        if waiting is None:
            return roster._placed(rank, None)
        return roster._joined(rank, Member(waiting.hello.incarnation, waiting.hello.process, max(at, waiting.since)))

    def close(self) -> Roster:
        """Rejects requests for a rank, those that wait and those to come."""
        roster = replace(self, closed=True)
        for waiting in self.waiting:
            if waiting is not None:
                roster = roster._turned_away(waiting.hello, Verdict.LATE)
        return replace(roster, waiting=(None,) * self.rules.num_ranks)

    # --- signs of life -----------------------------------------------------------------------------------------------

    def take_beat(self, rank: int, beat: Beat, at: float) -> Roster:
        member = self.holders[rank]
        if member is None or member.incarnation != beat.incarnation or not beat.is_after(member.beat):
            return self  # written by a process that has lost its rank, or read before
        roster = self._placed(rank, Member(member.incarnation, member.process, at, member.signed, member.more_s, beat))
        waiting = self.waiting[rank]
        if waiting is None:
            return roster
        if waiting.num_beats:  # the first one may be from before
            roster = roster._turned_away(waiting.hello, Verdict.RUNS_ALREADY)
            return replace(roster, waiting=put(self.waiting, rank, None))
        return replace(roster, waiting=put(self.waiting, rank, replace(waiting, num_beats=1)))

    def take_sign(self, rank: int, link: str, at: float, more_s: float) -> Roster:
        """A rank's process, by its identity on links, wrote over its link to rank 0; `more_s` as in Member."""
        member = self.holders[rank]
        if member is None or member.beat is None or member.beat.link != link:
            return self
        return self._placed(rank, Member(member.incarnation, member.process, member.changed, at, more_s, member.beat))

    def take_suspicion(self, suspicion: Suspicion, number: int | None) -> Roster:
        """`number`: of the epoch that runs; what was said of another one is not kept."""
        if suspicion.number != number:
            return self
        known = replace(suspicion, reason="")
        return self if known in self.suspicions else replace(self, suspicions=self.suspicions | {known})

    def look(self, now: float) -> Roster:
        """Finds the ranks that have been silent for too long."""
        roster, rules = self, self.rules
        for rank, member in enumerate(self.holders):
            if member is None:
                continue
            silent_s = now - member.alive
            limit_s = rules.detect_s if member.ready else max(rules.detect_s, rules.timeout_s)
            limit_s += member.more_s
            if now - member.changed > STORE_PATIENCE * limit_s:
                silent_s = now - member.changed
            if silent_s > limit_s:
                roster = roster.lose(rank, LossKind.SILENT, silent_s=silent_s, at=now)
        return roster

    def forgive(self, now: float) -> Roster:
        """This process itself stood still for a while: nobody is to blame."""
        holders = (None if member is None else replace(member, changed=now, signed=None) for member in self.holders)
        return replace(self, holders=tuple(holders))

    # --- links -------------------------------------------------------------------------------------------------------

    def note_silent_links(self, now: float) -> tuple[Roster, dict[Pair, bool]]:
        """The links that do not carry, as one of their ends says, between ranks that are there.

        With each whether it is the link: both ends have shown themselves to rank 0 lately, or to a third rank, or else
        one of them may be gone.
        """
        beats = {
            rank: member.beat
            for rank, member in enumerate(self.holders)
            if member is not None and member.beat is not None
        }
        if not self.own_silent and not self.silent_since and not any(beat.silent for beat in beats.values()):
            return self, {}
        ranks = {self.own_link: 0, **{beat.link: rank for rank, beat in beats.items()}}
        said = {0: self.own_silent, **{rank: beat.silent for rank, beat in beats.items()}}
        pairs = {frozenset((rank, ranks[other])) for rank in said for other in said[rank] if other in ranks}
        before = dict(self.silent_since)
        since = {pair: before.get(pair, now) for pair in sorted(pairs, key=sorted)}
        alive = self._alive(now)
        links = {rank: link for link, rank in ranks.items()}

        def is_vouched_for(rank: int, other: int) -> bool:
            thirds = self.rules.watched[rank] & alive - {other}
            return rank in alive or any(links[rank] not in said.get(third, ()) for third in thirds)

        found = {}
        for pair, begin in since.items():
            first, second = pair
            # what a third has to say may come later
            settled = pair <= alive or now - begin >= SETTLED * self.rules.silence_s
            found[pair] = settled and is_vouched_for(first, second) and is_vouched_for(second, first)
        return replace(self, silent_since=tuple(since.items())), found

    def _alive(self, now: float) -> frozenset[int]:
        """The ranks that showed themselves lately."""
        limit_s = ALIVE * self.rules.silence_s
        holders = enumerate(self.holders)
        return frozenset(
            {0, *(rank for rank, member in holders if member and now - member.alive <= limit_s + member.more_s)}
        )

    # --- inside ------------------------------------------------------------------------------------------------------

    def _placed(self, rank: int, member: Member | None) -> Roster:
        return replace(self, holders=put(self.holders, rank, member))

    def _joined(self, rank: int, member: Member) -> Roster:
        return replace(self._placed(rank, member), joined=(*self.joined, (rank, member.incarnation)))

    def _answered(self, answer: Answer) -> Roster:
        return replace(self, answers=(*self.answers, answer))

    def _spend(self, incarnation: str, verdict: Verdict) -> Roster:
        return replace(self, spent=(*self.spent, (incarnation, verdict))[-MOST_SPENT:])

    def _turned_away(self, hello: Hello, verdict: Verdict) -> Roster:
        return self._spend(hello.incarnation, verdict)._answered(Answer(hello.rank, hello.incarnation, verdict))


def put(values: tuple, rank: int, value: object) -> tuple:  # type: ignore[type-arg]
    """The same tuple with another value at one place."""
    return (*values[:rank], value, *values[rank + 1 :])
