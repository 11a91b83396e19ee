"""Feeds a rank's core with the time, in the main thread, and carries out what it decides."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from edgecompile.contract.plan import Plan
from edgelaunch.common.failures import FailureBox
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.rank_summary import RankSummary
from edgelaunch.common.reports import KillRequest
from edgelaunch.control.core import follower_events as follow
from edgelaunch.control.core import leader_events as leading
from edgelaunch.control.core.leader_state import Phase, awaited
from edgelaunch.control.core.membership import DONE, HALT, RUN, Announcement, Awaited
from edgelaunch.control.core.run_events import ResultsAgain, RunEvent
from edgelaunch.control.epochs import Epochs
from edgelaunch.control.event_log import LateBeats
from edgelaunch.control.heartbeats import Watch
from edgelaunch.control.listening import WAITS_FOR, publish
from edgelaunch.control.wording import awaited_words, failure_of
from edgelaunch.pipeline.rank import Rank
from edgelaunch.pipeline.result_counters import CollectingEnd, Ends, FeedingEnd
from edgelaunch.process.waiting import Waiting
from edgelaunch.store.meeting import Board, Meeting

__all__ = ["Following", "Leading", "Run"]

MOST_EVENTS = 10_000


@dataclass
class Run:
    """What rank 0 has after a run: the ends' counters, each rank's summary, and what happened."""

    plan: Plan
    """The plan as it ran last: with a contingency's stages where a rank was missing at the end."""
    feeder: FeedingEnd
    collector: CollectingEnd
    ranks: dict[int, RankSummary] = field(default_factory=dict)
    events: deque[RunEvent] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))

    @property
    def pauses_s(self) -> list[float]:
        """For each recovery, the time from the last result before it to the first after it."""
        return [event.pause_s for event in self.events if isinstance(event, ResultsAgain)]


class Leading:
    """Rank 0's."""

    def __init__(
        self,
        options: RankOptions,
        watch: Watch,
        board: Board,
        box: FailureBox,
        epochs: Epochs,
        ends: Ends | None,
        tell: Callable[[RunEvent], None],
        request_kill: Callable[[KillRequest], None],
    ) -> None:
        """`board`: the main thread's own. `ends`: where items flow. `tell` is called with what happens."""
        assert watch.leader is not None
        self._options, self._plan = options, options.plan
        self._watch, self._side, self._board, self._box = watch, watch.leader, board, box
        self._epochs, self._ends, self._tell, self._request_kill = epochs, ends, tell, request_kill
        self._announcement: Announcement | None = None
        self._waiting, self._told = Waiting(partial(options.log, event="waiting")), Awaited()
        self._late = LateBeats(options.plan, options.log)
        self._summaries: dict[int, RankSummary] = {}

    @property
    def urgent(self) -> bool:
        """Whether every moment counts."""
        return self._side.state.recovering

    def step(self, now: float) -> None:
        for remark in self._side.take_remarks():
            self._options.log(remark, level=logging.WARNING, event="joining")
        current = self._epochs.current
        if current is not None and current.complete:
            self._conclude(current, now)
        num_items = self._ends.num_items if self._ends is not None else 0
        self._feed(leading.Tick(now, num_items))
        self._watch.hurry(self.urgent)
        self._late.look(self._side.state.roster.holders, now)
        self._say_waiting(now)

    def _feed(self, event: leading.Event) -> None:
        actions = self._side.machine.feed(event)
        publish(self._board, actions)
        for action in actions:
            self._perform(action)

    def _perform(self, action: leading.Action) -> None:
        if isinstance(action, leading.Report):
            self._tell(action.event)
        elif isinstance(action, leading.RequestKill):
            self._request_kill(KillRequest(rank=action.rank, process=action.process))
        elif isinstance(action, leading.Begin):
            self._begin(action)
        elif isinstance(action, leading.Halt):
            assert self._announcement is not None
            self._announce(replace(self._announcement, phase=HALT))
            if self._ends is not None:
                self._ends.halt()
            self._epochs.leave()
        elif isinstance(action, leading.Announce):
            self._put_announcement()
        elif isinstance(action, leading.Closing):
            self._close(action)
        elif isinstance(action, leading.EndRun):
            self._box.put(failure_of(self._plan, 0, action.cause, self._side.turned_away))
        elif isinstance(action, leading.FinishRun):
            self._box.finish()

    def _begin(self, action: leading.Begin) -> None:
        first = self._ends.begin(action.number) if self._ends is not None else 0
        announcement = Announcement(
            number=action.number, phase=RUN, without=action.without, members=_by_rank(action.members), first=first
        )
        self._announce(announcement)
        self._epochs.enter(announcement)

    def _announce(self, announcement: Announcement) -> None:
        self._announcement = announcement
        self._put_announcement()

    def _put_announcement(self) -> None:
        if self._announcement is not None:
            self._board.put("announcement", self._announcement.to_json())

    def _say_waiting(self, now: float) -> None:
        """And tells the others, who wait too."""
        wanted = awaited(self._side.state)
        words = awaited_words(self._plan, wanted)
        if not words:
            self._waiting.over()
        else:
            self._waiting.tell(words, wanted.most_s, now)
        if wanted != self._told:
            self._told = wanted
            self._board.put(WAITS_FOR, wanted.to_json())

    # --- the end -----------------------------------------------------------------------------------------------------

    def summaries(self) -> dict[int, RankSummary]:
        """By rank, once the run is closing."""
        return self._summaries

    def _conclude(self, current: Rank, now: float) -> None:
        """All results are there: collects what the others counted, and lets them go. Rank 0 goes last."""
        state = self._side.state
        if state.phase is Phase.RUNNING:
            self._box.parting = True
            self._summaries = {0: current.summary()}
            self._feed(leading.StreamEnded(now))
            state = self._side.state
        missing = [rank for rank, member in enumerate(state.roster.holders) if member and rank not in state.arrived]
        if state.phase is Phase.COLLECTING:
            meeting = Meeting(self._board, current.role.number, current.role.group, bool)
            for rank in missing:
                summary = meeting.summary(rank)
                if summary is not None:
                    self._summaries[rank] = summary
                    self._feed(leading.SummaryCame(rank))
        elif state.phase is Phase.PARTING:
            for rank in missing:
                if self._board.has(f"bye/{rank}"):
                    self._feed(leading.ByeCame(rank))

    def _close(self, action: leading.Closing) -> None:
        assert self._announcement is not None
        for stage in self._epochs.plan.stages:  # of a rank that was lost after the last result
            self._summaries.setdefault(stage.rank, RankSummary())
        self._announce(replace(self._announcement, phase=DONE, members=_by_rank(action.members)))


class Following:
    """Any other rank's: does what rank 0 announces."""

    def __init__(self, options: RankOptions, watch: Watch, epochs: Epochs, tell: Callable[[RunEvent], None]) -> None:
        assert watch.follower is not None
        self._watch, self._side, self._epochs, self._tell = watch, watch.follower, epochs, tell
        self._plan, self._waiting = options.plan, Waiting(partial(options.log, event="waiting"))

    def step(self, now: float) -> None:
        self._side.note_sign()
        for action in self._side.feed(follow.OwnTick(now)):
            if isinstance(action, follow.Enter):
                self._epochs.enter(action.announcement)
            elif isinstance(action, follow.LeaveEpoch):
                self._epochs.leave()
            elif isinstance(action, follow.Note):
                self._tell(action.event)
        heard = self._side.state.heard
        self._watch.hurry(self._epochs.complete or heard is None or heard.phase == HALT)
        if heard is not None and heard.phase == RUN:
            self._waiting.over()
        elif words := awaited_words(self._plan, self._side.waits_for):
            self._waiting.tell(words, now=time.monotonic())


def _by_rank(members: tuple[str | None, ...]) -> dict[int, str]:
    return {rank: incarnation for rank, incarnation in enumerate(members) if incarnation is not None}
