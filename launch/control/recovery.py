"""Rank 0's decisions: when an epoch ends, which ranks and plan the next one uses, when the run is over."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_items_rate, format_number
from edgelaunch.common.detection import silence_s
from edgelaunch.common.failures import Failure, link_name, rank_name, rank_title
from edgelaunch.common.plan_parts import Pair, links_of, plan_without
from edgelaunch.control.membership import Announcement
from edgelaunch.control.roster import Loss, RankState, Roster

__all__ = ["Coordinator", "Form", "Halt"]

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


@dataclass(frozen=True)
class Halt:
    """Everybody is to leave the epoch."""


@dataclass(frozen=True)
class Form:
    """A new epoch is to begin."""

    without: str | None
    members: dict[int, str]


class Coordinator:
    """Used by rank 0's main thread. `step` is called every few hundredths of a second, with the monotonic clock."""

    def __init__(
        self,
        plan: Plan,
        roster: Roster,
        log: Callable[[str], None],
        lost: Callable[[int, int], None],
        turned_away: Mapping[int, str] | None = None,
    ) -> None:
        """`lost` is called with each rank that fell silent and its process, which may be started again.

        `turned_away`: by rank, why the one that came last could not join; it grows.
        """
        self._turned_away = turned_away if turned_away is not None else {}
        self._plan, self._roster, self._log, self._tell = plan, roster, log, lost
        self._begin = time.monotonic()
        self._current: Announcement | None = None
        """The epoch that runs, or that is being left."""
        self._halted: float | None = None
        self._lost: dict[int, Loss] = {}
        self._lost_at: dict[int, float] = {}
        self._cut: dict[Pair, float] = {}
        """Links that do not carry, and since when that is known."""
        self._troubles: deque[tuple[Pair, float]] = deque(maxlen=MANY)
        """Ranks that were lost, and links that did not carry and do again, each with the time."""
        self._attempts = 0
        self._not_before = 0.0
        self._num_items = -1
        self._num_formed = 0

    @property
    def recovering(self) -> bool:
        """Whether ranks are being waited for, so that every moment counts."""
        return self._current is None or self._halted is not None

    def waits_for(self) -> tuple[str, float | None]:
        """Which ranks must come, or get ready, before there is an epoch, in words, empty where none.

        And for how many seconds at most, where there is a limit.
        """
        if self._current is not None:
            return "", None
        states = self._roster.states()
        first = self._num_formed == 0
        wanted = range(len(self._plan.hosts)) if first else {stage.rank for stage in self._plan.stages}
        absent = [rank for rank in sorted(wanted) if rank and rank not in states]
        loading = [rank for rank in sorted(wanted) if rank and rank in states and not states[rank].ready]
        runtime = self._plan.runtime
        most_s = runtime.timeout_s if first else runtime.rejoin_s
        verbs = ((absent, "to join" if first else "to come back"), (loading, "to load its shard"))
        words = [f"{', '.join(rank_name(self._plan, rank) for rank in ranks)} {verb}" for ranks, verb in verbs if ranks]
        return " and ".join(words), most_s if absent else None

    def formed(self, announcement: Announcement) -> None:
        """The epoch that `step` asked for was published."""
        self._current, self._halted = announcement, None

    def step(self, now: float, num_items: int) -> Form | Halt | Failure | None:
        """`num_items`: whose results are there."""
        for remark in self._roster.take_remarks():
            self._log(remark)
        self._note(now, num_items)
        if self._current is not None and self._halted is None:
            if self._must_halt() or self._may_go_back(now):
                self._halted = now
                return Halt()
            return None
        if self._current is not None and not self._all_left(now):
            return None
        self._note(now, num_items)
        self._current, self._halted = None, None
        if self._num_formed == 0:
            return self._first(now)
        return self._next(now, num_items)

    # --- losses ------------------------------------------------------------------------------------------------------

    def _note(self, now: float, num_items: int) -> None:
        for loss in self._roster.take_losses():
            self._lost[loss.rank], self._lost_at[loss.rank] = loss, now
            self._troubles.append((frozenset((loss.rank,)), now))
            self._log(self._describe(loss, num_items))
            if loss.silent_process is not None:
                self._tell(loss.rank, loss.silent_process)
        silent = self._roster.silent_links(now)
        for link in sorted(silent.keys() - self._cut.keys(), key=sorted):
            if silent[link]:
                self._cut[link] = now
                self._log(self._describe_cut(link, num_items))
        for link in sorted(self._cut.keys() - silent.keys(), key=sorted):
            since = self._cut.pop(link)
            self._troubles.append((link, now))
            if link <= {0, *self._roster.states()}:  # else one of its ends is gone, and said to be
                self._log(f"{link_name(self._plan, link)} is up again, {now - since:.1f} s later")

    def _describe(self, loss: Loss, num_items: int) -> str:
        return f"{rank_title(self._plan, loss.rank)} {loss.reason}{_after(num_items)}"

    def _describe_cut(self, link: Pair, num_items: int) -> str:
        silent_s = silence_s(self._plan.runtime.detect_s)
        return f"{link_name(self._plan, link)} is cut: no data came through for {silent_s:.1f} s{_after(num_items)}"

    def _must_halt(self) -> bool:
        assert self._current is not None
        states = self._roster.states()
        plan = plan_without(self._plan, self._current.without)
        for rank in self._current.group(plan)[1:]:
            if rank not in states or states[rank].incarnation != self._current.members[rank]:
                return True
        if self._needed(plan) & self._cut.keys():
            return True
        return bool(self._roster.suspicions(self._current.number))

    def _all_left(self, now: float) -> bool:
        """Whether every member has left the epoch; one that was suspected and is silent is lost."""
        assert self._current is not None
        assert self._halted is not None
        number, states = self._current.number, self._roster.states()
        members = self._current.members
        staying = [
            rank for rank, state in states.items() if state.incarnation == members.get(rank) and state.left < number
        ]
        if not staying:
            return True
        if now - self._halted < GRACE_S:
            return False
        for suspicion in self._roster.suspicions(number):
            if suspicion.lost in staying:
                self._roster.lose(suspicion.lost, "is gone: it closed its connection", silent=False)
        return True  # whoever else is silent is found by its heartbeats

    # --- forming -----------------------------------------------------------------------------------------------------

    def _first(self, now: float) -> Form | Failure | None:
        timeout_s = self._plan.runtime.timeout_s
        if self._roster.wrong_plan is not None:
            name = rank_name(self._plan, self._roster.wrong_plan)
            return Failure(
                rank=0, kind="user", message=f"{name} has another plan than rank 0: copy the same plan to both"
            )
        states = self._roster.states()
        missing = [rank for rank in range(1, len(self._plan.hosts)) if rank not in states]
        if missing and now - self._begin > timeout_s:
            names = ", ".join(rank_name(self._plan, rank) for rank in missing)
            reasons = [self._turned_away[rank] for rank in missing if rank in self._turned_away]
            why = "; ".join(reasons) or "start edgelaunch with the same plan there"
            return Failure(rank=0, kind="user", message=f"{names} did not join within {timeout_s:g} s: {why}")
        return self._form(None, states) if not missing and self._able(None, states) else None

    def _next(self, now: float, num_items: int) -> Form | Failure | None:
        states = self._roster.states()
        if now < self._not_before:
            return None
        missing = [stage.rank for stage in self._plan.stages
                   if stage.rank and not (stage.rank in states and states[stage.rank].ready)]  # fmt: skip
        able = [without for without in (None, *(item.lost for item in self._plan.contingencies))
                if self._able(without, states)]  # fmt: skip
        if able:
            best = max(able, key=lambda name: (name is None, self._rate(name)))
            return self._attempt(best, states, num_items, now)
        rejoin_s = self._plan.runtime.rejoin_s
        waited = f": it did not come back within {rejoin_s:g} s" if rejoin_s else ""
        gone = [rank for rank in missing if rank not in states]
        if gone and now - max(self._lost_at[rank] for rank in gone) >= rejoin_s:
            rank = min(gone, key=lambda rank: self._lost_at[rank])
            message = self._describe(self._lost[rank], num_items)
            return Failure(rank=rank, kind="lost", message=message + waited)
        cut = self._needed(self._plan) & self._cut.keys()
        if not missing and now - max((self._cut[link] for link in cut), default=now) >= rejoin_s:
            link = min(cut, key=lambda link: (self._cut[link], sorted(link)))
            waited = f": it did not heal within {rejoin_s:g} s" if rejoin_s else ""
            hint = ": repair the network between these two" if waited else ""
            return Failure(rank=max(link), kind="lost", message=self._describe_cut(link, num_items) + waited + hint)
        return None

    def _able(self, without: str | None, states: dict[int, RankState]) -> bool:
        """Whether all ranks of a plan are there, with a shard loaded, and its links carry."""
        plan = plan_without(self._plan, without)
        there = all(stage.rank == 0 or (stage.rank in states and states[stage.rank].ready) for stage in plan.stages)
        return there and not self._needed(plan) & self._cut.keys()

    def _needed(self, plan: Plan) -> set[Pair]:
        """The links without which a plan does not run: its own, and every rank's to rank 0's store."""
        return links_of(plan) | {frozenset((0, stage.rank)) for stage in plan.stages if stage.rank}

    def _rate(self, without: str | None) -> float:
        return plan_without(self._plan, without).predicted.throughput_items_per_s

    def _attempt(self, without: str | None, states: dict[int, RankState], num_items: int, now: float) -> Form | Failure:
        """Later and later while no result comes: what is wrong with a link is known only after a while."""
        self._attempts = self._attempts + 1 if num_items == self._num_items else 1
        self._num_items = num_items
        self._not_before = now + min(MOST_WAIT_S, LEAST_WAIT_S * 2**self._attempts)
        if self._attempts > MAX_ATTEMPTS:
            reasons = [item.reason for item in self._lost.values()][-1:] or ["connections broke"]
            message = f"no result came in {MAX_ATTEMPTS} attempts to connect the ranks; the last reason: {reasons[0]}"
            return Failure(rank=0, kind="lost", message=message)
        if without is None:
            self._log("all ranks are present: continuing as planned")
        else:
            rate, before = self._rate(without), self._rate(None)
            self._log(
                f"continuing without {without}: predicted {format_items_rate(rate)} (was {format_number(before)})"
            )
        return self._form(without, states)

    def _form(self, without: str | None, states: dict[int, RankState]) -> Form:
        self._num_formed += 1
        return Form(without, {0: "", **{rank: state.incarnation for rank, state in sorted(states.items())}})

    def _may_go_back(self, now: float) -> bool:
        """Whether the rank that is done without is there again, and has not been lost too often to trust it at once."""
        assert self._current is not None
        if self._current.without is None:
            return False
        rank = next(host.rank for host in self._plan.hosts if host.name == self._current.without)
        troubles = [at for ranks, at in self._troubles if rank in ranks and now - at < LATELY_S]
        wait_s = BACK_OFF_S * (len(troubles) - 1)
        return self._able(None, self._roster.states()) and (not troubles or now - troubles[-1] >= wait_s)


def _after(num_items: int) -> str:
    return f", after item {num_items:,}" if num_items else ""
