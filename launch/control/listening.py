"""Turns what a rank reads from the store into events for its core."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgecompile.contract.plan import Plan
from edgelaunch.common.failures import FailureBox
from edgelaunch.common.rank_figures import RankFigures
from edgelaunch.control.core import follower, leader
from edgelaunch.control.core import follower_events as follow
from edgelaunch.control.core import leader_events as leading
from edgelaunch.control.core.follower import FollowerState
from edgelaunch.control.core.leader_state import LeaderState
from edgelaunch.control.core.membership import (
    RUN,
    Announcement,
    Awaited,
    Beat,
    Hello,
    Holder,
    Leave,
    Load,
    Suspicion,
    Verdict,
    read_news,
)
from edgelaunch.control.core.rules import Rules
from edgelaunch.control.core.run_events import StoreGone
from edgelaunch.control.pace import Pace
from edgelaunch.control.process_checks import has_ended, own_process
from edgelaunch.control.state_machine import Machine
from edgelaunch.control.wording import failure_of
from edgelaunch.store.joining import Door
from edgelaunch.store.list_reader import ListReader
from edgelaunch.store.meeting import Board
from edgelaunch.transport.link_watch import LinkWatch

__all__ = ["NEWS", "WAITS_FOR", "Errands", "FollowerSide", "LeaderSide", "beat_key", "figures_key", "publish"]

NEWS = "news"
WAITS_FOR = "waits-for"
"""Whom rank 0 waits for, for the others to say."""


@dataclass(frozen=True, kw_only=True)
class Errands:
    """What the watch does for its side of the protocol."""

    board: Board
    """The watch thread's own."""
    box: FailureBox
    links: LinkWatch
    say: Callable[[Hello | Leave | Suspicion], None]
    beat_now: Callable[[], None]


def beat_key(rank: int, incarnation: str) -> str:
    """Each process beats for itself: two that want one rank would hide each other's beats. Rank 0 is there once."""
    return f"beat/{rank}/{incarnation}" if rank else "beat/0"


def figures_key(rank: int, incarnation: str) -> str:
    """Beside the beat and not in it: a rank 0 of an older version reads beats, and knows of nothing else."""
    return f"figures/{rank}/{incarnation}"


def publish(board: Board, actions: tuple[leading.Action, ...]) -> None:
    """Answers the processes that are told something."""
    for action in actions:
        if isinstance(action, leading.Publish):
            answer = action.answer
            if answer.verdict is not None:
                board.put(f"verdict/{answer.incarnation}", answer.verdict.value)
            if answer.holder is not None:
                board.put(f"holder/{answer.incarnation}", answer.holder.to_json())


class LeaderSide:
    """Rank 0's: fed by its watch thread, its links' thread and its main thread."""

    def __init__(self, errands: Errands, plan: Plan, rules: Rules, door: Door | None) -> None:
        self._errands, self._plan, self._door = errands, plan, door
        self.machine: Machine[LeaderState, leading.Event, leading.Action] = Machine(
            LeaderState.of(rules, time.monotonic()), leader.step
        )
        self.ready = False
        """Whether rank 0 has its shard."""
        self._news = ListReader(errands.board, NEWS, plan.runtime.detect_s)
        self._remarks: list[str] = []
        self._remarked: set[str] = set()
        self._paces: dict[str, Pace] = {}
        self.hear_of_links()

    # --- the main thread's side --------------------------------------------------------------------------------------

    @property
    def state(self) -> LeaderState:
        return self.machine.state

    @property
    def turned_away(self) -> dict[int, str]:
        """By rank, why the one that came last could not join."""
        return self._door.turned_away if self._door is not None else {}

    def paces(self) -> dict[int, Pace]:
        """Of the ranks that are there."""
        holders = enumerate(self.state.roster.holders)
        return {rank: self._paces.get(member.incarnation, Pace()) for rank, member in holders if member is not None}

    def joining(self) -> frozenset[int]:
        """Ranks that load their shard, and those whose place another process asks for."""
        roster = self.state.roster
        return frozenset(
            rank for rank, (member, waiting) in enumerate(zip(roster.holders, roster.waiting, strict=True))
            if waiting is not None or (member is not None and not member.ready)
        )  # fmt: skip

    def take_remarks(self) -> list[str]:
        """What is to be logged since the last call."""
        remarks, self._remarks = self._remarks, []
        return remarks

    def ranks_to_tell(self) -> list[int]:
        """Of a failure: those that are there, and one that came with another plan."""
        roster = self.state.roster
        ranks = [rank for rank, member in enumerate(roster.holders) if member is not None]
        return ranks if roster.wrong_plan is None else [*ranks, roster.wrong_plan]

    def suspect(self, number: int, lost: int, reason: str) -> None:
        """A connection of rank 0's own broke."""
        suspicion = Suspicion(rank=0, number=number, lost=lost, reason=reason)
        self.machine.feed(leading.SuspicionCame(time.monotonic(), suspicion))
        self._errands.box.wake()

    def hear_of_links(self) -> None:
        """What rank 0's own links say has changed."""
        links = self._errands.links
        self.machine.feed(leading.OwnLinks(links.own.identity, links.silent()))
        self._errands.box.wake()

    def answered(self, now: float) -> None:
        self.machine.feed(leading.StoreAnswered(now))

    def stood_still(self, now: float) -> None:
        self.machine.feed(leading.StoodStill(now))

    def store_failed(self, reason: str) -> None:
        self._errands.box.put(failure_of(self._plan, 0, StoreGone(reason)))

    # --- the watch thread's side -------------------------------------------------------------------------------------

    def listen(self, now: float, due: bool) -> None:
        errands = self._errands
        if self._door is not None:
            for remark in self._door.answer(errands.board, now):
                self._remark(remark)
                errands.box.wake()
        for text in self._news.new(now):
            if not text:  # announced and never written, or written by a process without the secret
                self._remark("ignoring what a process without the secret wrote into the store")
                continue
            due = self._take(text, now) or due
            errands.box.wake()
        self._note_signs()
        if due:
            self._read_beats(now)
            self._feed(leading.Looked(now))
            errands.box.wake()

    def _take(self, text: str, now: float) -> bool:
        """One message of the ranks'. Whether there is something to be read in the heartbeats."""
        news = read_news(text)
        if isinstance(news, Hello):
            self._feed(leading.HelloCame(now, news))
        elif isinstance(news, Leave):
            self._feed(leading.LeaveCame(now, news))
        elif isinstance(news, Suspicion):
            self._feed(leading.SuspicionCame(now, news))
        else:
            return True
        return False

    def _feed(self, event: leading.Event) -> None:
        publish(self._errands.board, self.machine.feed(event))

    def _note_signs(self) -> None:
        for rank, member in enumerate(self.state.roster.holders):
            sign = self._errands.links.last_sign(rank) if member is not None else None
            if sign is not None:
                self._feed(leading.SignCame(rank, sign.identity, sign.at, sign.more_s))

    def _read_beats(self, now: float) -> None:
        for rank, member in enumerate(self.state.roster.holders):
            text = self._errands.board.get(beat_key(rank, member.incarnation)) if member is not None else None
            if text is None or member is None:
                continue
            beat = Beat.from_text(text)
            self._feed(leading.BeatCame(now, rank, beat))
            if beat.is_after(member.beat):
                self._note_pace(rank, member.incarnation, beat.load)
        present = {member.incarnation for member in self.state.roster.holders if member is not None}
        self._paces = {incarnation: pace for incarnation, pace in self._paces.items() if incarnation in present}

    def _note_pace(self, rank: int, incarnation: str, load: Load) -> None:
        pace = self._paces.setdefault(incarnation, Pace())
        pace.add(load)
        told = self._errands.board.get(figures_key(rank, incarnation))
        figures = RankFigures.from_json(told) if told is not None else None
        if figures is not None:
            pace.add_figures(figures)

    def _remark(self, text: str) -> None:
        """Once."""
        if text not in self._remarked:
            self._remarked.add(text)
            self._remarks.append(text)


class FollowerSide:
    """Any other rank's: fed by its watch thread, its epoch's threads and its main thread."""

    def __init__(self, errands: Errands, plan: Plan, rules: Rules, rank: int) -> None:
        self._errands, self._plan, self._rank = errands, plan, rank
        state = FollowerState.of(rules, rank, secrets.token_hex(8), own_process(), time.monotonic())
        self.machine: Machine[FollowerState, follow.Event, follow.Action] = Machine(state, follower.step)
        self.waits_for = Awaited()
        """Whom rank 0 waits for, as it says."""

    @property
    def state(self) -> FollowerState:
        return self.machine.state

    def start(self) -> None:
        self.feed(follow.Start(time.monotonic()))

    def suspect(self, number: int, lost: int, reason: str) -> None:
        self.feed(follow.LinkBroke(time.monotonic(), number, lost, reason))

    def set_ready(self, ready: bool) -> None:
        self.feed(follow.LoadedShard(ready))

    def answered(self, now: float) -> None:
        self.machine.feed(follow.Answered(now))

    def stood_still(self, now: float) -> None:
        self.machine.feed(follow.Paused(now))

    def store_failed(self, reason: str) -> None:
        self.feed(follow.StoreFailed(reason))

    def note_sign(self) -> None:
        """What rank 0's process last wrote over its link to this one."""
        sign = self._errands.links.last_sign(0)
        if sign is not None:
            self.machine.feed(follow.LeaderSign(sign.at, sign.more_s))

    def feed(self, event: follow.Event) -> list[follow.Action]:
        """Carries out what any thread can; returns what is left to the main thread, which alone feeds ticks."""
        left: list[follow.Action] = []
        for action in self.machine.feed(event):
            if isinstance(action, follow.Say):
                self._errands.say(action.message)
            elif isinstance(action, follow.BeatNow):
                self._errands.beat_now()
            elif isinstance(action, follow.EndRank):
                self._errands.box.put(failure_of(self._plan, self._rank, action.cause))
            elif isinstance(action, follow.FinishRank):
                self._finish()
            else:
                left.append(action)
        return left

    def _finish(self) -> None:
        """All results are there: this rank, which has a place, may end."""
        self._errands.box.parting = True
        self._errands.board.put(f"bye/{self._rank}", "1")
        self._errands.box.finish()

    # --- the watch thread's side -------------------------------------------------------------------------------------

    def listen(self, now: float, due: bool) -> bool:
        """True: nothing more is to come."""
        board, box = self._errands.board, self._errands.box
        text = board.get("announcement")
        if text is not None:
            announcement = Announcement.from_json(text)
            if announcement.is_after(self.state.heard):
                self.feed(follow.AnnouncementCame(announcement))
                if box.finished:
                    return True
                box.wake()
        if not due:
            return False
        self.note_sign()
        state = self.state
        if not state.is_member:
            self._look_at_holder(state)
        if state.heard is None or state.heard.phase != RUN:
            text = board.get(WAITS_FOR)
            self.waits_for = Awaited.from_json(text) if text else Awaited()
        self._read_verdict(state)
        beat = board.get(beat_key(0, ""))
        self.feed(follow.LeaderBeat(now, Beat.from_text(beat) if beat is not None else None))
        return False

    def _read_verdict(self, state: FollowerState) -> None:
        told = self._errands.board.get(f"verdict/{state.incarnation}")
        if told is None or state.verdict is not None:
            return
        self.feed(follow.VerdictCame(state.incarnation, Verdict(told), secrets.token_hex(8)))
        self._errands.box.wake()

    def _look_at_holder(self, state: FollowerState) -> None:
        """Another process has this rank: if it was on this machine, whether it runs can be seen here."""
        text = self._errands.board.get(f"holder/{state.incarnation}")
        if text is None:
            return
        holder = Holder.from_json(text)
        if holder.incarnation != state.gone and has_ended(holder.process):
            self.feed(follow.HolderGone(holder.incarnation))
