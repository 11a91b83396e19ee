"""Runs one process of a pipeline from epoch to epoch, as long as it lives.

A rank that is lost ends an epoch, not the run. Those that are left keep their process, their shard and their
connection to rank 0's store, leave the epoch, and join the next one, in which what was under way is sent again.
What is decided when, `core` says; here are the threads, and what they do about it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from edgecompile.contract.errors import UserError
from edgelaunch.common.detection import detection_s
from edgelaunch.common.failures import Failure, FailureBox, PeerLostError, rank_name
from edgelaunch.common.rank_figures import PARTS
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.reports import KillRequest
from edgelaunch.control.core.membership import RUN, Announcement
from edgelaunch.control.core.run_events import RankJoined, RankLost, ResultsAgain, RunEvent, StoreGone
from edgelaunch.control.epochs import JOIN_S, Epochs
from edgelaunch.control.event_log import log_event
from edgelaunch.control.events import events_of
from edgelaunch.control.heartbeats import Watch
from edgelaunch.control.main_thread import Following, Leading, Run
from edgelaunch.control.pace import Counters, Overview, Pace, Rate
from edgelaunch.control.pipeline_state import Event, PipelineState
from edgelaunch.control.wording import failure_of
from edgelaunch.pipeline.rank import RankCallbacks, RankWork
from edgelaunch.pipeline.result_counters import Ends
from edgelaunch.process.abandoned_threads import await_at_exit
from edgelaunch.store.joining import meet
from edgelaunch.store.meeting import Board
from edgelaunch.transport.link_watch import LinkWatch
from edgelaunch.transport.shard_transfer import ShardServer, TransferContext, fetch_shards

__all__ = ["Run", "Supervisor"]

POLL_S = 0.2
EVENTS = 30
"""So many are shown."""
URGENT_POLL_S = 0.01
STALL_S = 2.0
"""A main loop that was so long away, or half the time of detection, stood still together with all other threads."""


class Supervisor:
    """One process's part in a run; `wait` returns its outcome. The bytes of its shards have been checked."""

    def __init__(
        self,
        options: RankOptions,
        work: RankWork,
        ends: Ends | None = None,
        request_kill: Callable[[KillRequest], None] = lambda request: None,
        last_resort: Callable[[Failure], None] = lambda failure: None,
    ) -> None:
        """`ends` are the data host's, rank 0, where items flow; the others have none.

        `request_kill` is called on rank 0 with each rank that fell silent, for whoever can start it again.
        `last_resort` is called where the main thread itself hangs in a store that does not answer.
        """
        self._options, self._plan, self._rank = options, options.plan, options.rank
        self._work, self._ends = work, ends
        self._request_kill, self._last_resort = request_kill, last_resort
        self._looked = time.monotonic()
        self.box = FailureBox()
        self.run = Run(options.plan, ends.feeder, ends.collector) if ends is not None else None
        self.streaming = threading.Event()
        """Set once all ranks have been connected for the first time."""
        self._watch: Watch | None = None
        self._main: Leading | Following | None = None
        self._server: ShardServer | None = None
        self._epochs = Epochs(options, work, self._callbacks)
        self._pace, self._rate = Pace(), Rate()
        self._num_lost, self._num_joined = Counter[int](), Counter[int]()
        self._given_up = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._thread("join", self._join)
        ends = self._ends
        if ends is not None:
            self._thread("source", lambda: ends.draw(self._await_streaming))

    def wait(self) -> Failure | None:
        """Until the run is complete (None), has failed or is abandoned. Serves signals: it waits in Python."""
        threading.Thread(target=self._watch_over, name="watchdog", daemon=True).start()
        self._looked = time.monotonic()
        stall_s = min(STALL_S, self._plan.runtime.detect_s / 2)
        while not self.box.ended and not self._given_up:
            urgent = isinstance(self._main, Leading) and self._main.urgent
            self.box.wait(URGENT_POLL_S if urgent else POLL_S)
            before, self._looked = self._looked, time.monotonic()
            if self._looked - before >= stall_s and self._watch is not None:
                self._watch.answered(self._looked)  # torch.jit.load keeps Python's lock: all threads stood still
            if not self.box.ended and not self._given_up:
                self._step(self._looked)
        return None if self.box.finished else self.box.failure

    @property
    def ready(self) -> bool:
        """Whether items flow: False while an epoch forms."""
        current = self._epochs.current
        return current is not None and current.streaming and not self.box.ended

    @property
    def over(self) -> bool:
        """Whether it has ended, or is about to."""
        return self.box.ended or self._given_up

    def counters(self) -> Counters:
        """From any thread."""
        clocks = list(self._work.clocks.values())
        return Counters(
            rank=self._rank, host=self._plan.hosts[self._rank].name, epoch=self._epochs.number,
            num_microbatches=sum(clock.compute.count for clock in clocks),
            stage_ns={part: sum(getattr(clock, part).total_ns for clock in clocks) for part in PARTS},
            received_bytes=self._epochs.load().received_bytes,
        )  # fmt: skip

    def overview(self) -> Overview:
        """On rank 0, from any thread: the run as it is now."""
        leader, ends = self._watch.leader if self._watch is not None else None, self._ends
        shares = _shares_of_ends(ends) if ends is not None else {}
        latencies = ends.collector.latencies if ends is not None else None
        num_items = ends.num_items if ends is not None else 0
        return Overview(
            plan=self._epochs.plan, paces={0: self._pace, **(leader.paces() if leader is not None else {})},
            joining=leader.joining() if leader is not None else frozenset(), ready=self.ready,
            epoch=self._epochs.number, num_in_flight=ends.num_in_flight() if ends is not None else 0,
            num_items=num_items, items_per_s=self._rate.per_s(num_items, time.monotonic()),
            latency=latencies.summary() if latencies is not None and latencies.count else None,
            num_lost=self._num_lost, num_joined=self._num_joined, **shares,
        )  # fmt: skip

    def state(self, number: int = 0) -> PipelineState:
        """On rank 0, from any thread: the same as everybody is shown it."""
        return PipelineState.of(self.overview(), self.events(EVENTS), number=number, ended=self.box.finished)

    def events(self, most: int | None = None) -> tuple[Event, ...]:
        """On rank 0, from any thread: what happened, oldest first; the last 10,000, or `most` of them."""
        return events_of(self._plan, self.run.events, most) if self.run is not None else ()

    def store_board(self) -> Board | None:
        """A connection to the store for a thread of the caller's; None before there is one, and for a rank alone."""
        if self._main is None:
            return None
        return Board(self._options.endpoint, serve=False, timeout_s=self._plan.runtime.timeout_s,
                     seal=self._epochs.seal)  # fmt: skip

    def beside(self, name: str, work: Callable[[], None]) -> None:
        """Runs it in a thread that ends once this is `over`, and that is waited for like its own."""
        self._thread(name, work)

    def tell(self, failure: Failure) -> None:
        """Tells the other ranks why this one ends. Takes 1.5 s at most."""
        self.box.put(failure)
        if self._watch is not None and not failure.private:
            self._watch.told_all(failure)

    def leave(self, failure: Failure) -> None:
        """Tells rank 0 that this rank leaves, so that the others continue without it. Takes 1.5 s at most."""
        self.box.put(failure)
        if self._watch is not None:
            self._watch.leave(failure.signal)

    def abandon(self) -> None:
        """Ends all threads of this process's rank, for a process that lives on. Takes a few seconds at most."""
        self._given_up = True
        self.box.wake()
        if self._watch is not None:
            self._watch.stop()
        if self._server is not None:
            self._server.stop()
            self._threads.append(self._server.thread)
        if self._ends is not None:
            self._ends.abandon()
        for thread in (*self._threads, *self._epochs.abandon()):
            thread.join(JOIN_S)
            if thread.is_alive():
                await_at_exit(thread)

    def fail(self, error: BaseException) -> None:
        """Called from any thread with the exception that ended it. Only a lost rank can be recovered from."""
        if isinstance(error, PeerLostError):
            self.box.put(failure_of(self._plan, self._rank, StoreGone(str(error))))
            return
        self.box.put(Failure.of(self._rank, error))

    # --- the process -------------------------------------------------------------------------------------------------

    def _thread(self, name: str, work: Callable[[], None]) -> None:
        def body() -> None:
            try:
                work()
            except BaseException as error:
                self.fail(error)

        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch_over(self) -> None:
        """Rank 0's main thread calls the store too, and such a call may never come back."""
        limit_s = 3 * detection_s(self._plan)
        while not self.box.finished and not self._given_up:
            looked = self._looked
            time.sleep(limit_s)
            watch = self._watch
            silent = watch is not None and time.monotonic() - watch.last_answer > limit_s
            if looked == self._looked and silent and not self.box.finished and not self._given_up:
                message = f"the store of {rank_name(self._plan, 0)} no longer answers: is its network down?"
                failure = Failure.unreachable(message)
                self.box.put(failure)
                self._last_resort(failure)
                return

    def _join(self) -> None:
        torch.set_num_threads(self._options.threads)
        if len(self._plan.hosts) == 1:
            first = self._ends.begin(1) if self._ends is not None else 0
            self._epochs.enter(Announcement(number=1, phase=RUN, without=None, members={0: ""}, first=first))
            return
        if self._options.lacking:
            watch = self._meet()
            if not self._fetch(watch):
                return
            self._work.prepare(self._set_ready)
        else:
            with ThreadPoolExecutor(1) as pool:
                preparing = pool.submit(self._work.prepare, self._set_ready)  # while the others come
                watch = self._meet()
                preparing.result()
        watch.set_ready(True)

    def _fetch(self, watch: Watch) -> bool:
        """Gets the shards that are not here; whether they are now."""
        context = TransferContext.of(self._options, self._epochs.seal)
        try:
            fetch_shards(context, self._options.lacking, self._options.log)
        except UserError as error:
            # a rank that comes too late to be missed must not end the others' run
            self.box.put(replace(Failure.of(self._rank, error), private=watch.announcement is not None))
            return False
        return True

    def _meet(self) -> Watch:
        options, timeout_s = self._options, self._plan.runtime.timeout_s
        main_board, door = meet(options)
        seal = self._epochs.seal = main_board.seal
        board = Board(options.endpoint, serve=False, timeout_s=timeout_s, seal=seal)
        links = LinkWatch.of(options, seal, self.fail)
        watch = Watch(board, self._plan, self._rank, options.plan_sha256, self.box, links, self._epochs.load,
                      self._epochs.figures, door)  # fmt: skip
        self._watch = watch
        if door is not None:
            self._main = Leading(
                options, watch, main_board, self.box, self._epochs, self._ends, self._tell, self._request_kill
            )
            self._server = ShardServer(TransferContext.of(options, seal), options.log)
        else:
            self._main = Following(options, watch, self._epochs, self._tell)
        return watch

    def _set_ready(self, ready: bool) -> None:
        if self._watch is not None:
            self._watch.set_ready(ready)

    def _await_streaming(self) -> bool:
        while not self.streaming.wait(POLL_S):
            if self.box.ended or self._given_up:
                return False
        return True

    # --- the main thread ---------------------------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        self._tell_pauses(now)
        self._note_pace(now)
        if self._main is not None:
            self._main.step(now)
        elif len(self._plan.hosts) == 1 and self._epochs.complete:
            self.box.finish()
        if self.box.finished and self.run is not None:
            self._conclude(self.run)

    def _tell_pauses(self, now: float) -> None:
        if self._ends is not None:
            for pause_ns in self._ends.collector.take_pauses():
                self._tell(ResultsAgain(now, pause_ns / 1e9))

    def _note_pace(self, now: float) -> None:
        if self._ends is not None and self.streaming.is_set():
            self._rate.add(self._ends.num_items, now)
            if self._pace.is_due(time.monotonic_ns()):
                self._pace.add(self._epochs.load())
                self._pace.add_figures(self._epochs.figures())

    def _tell(self, event: RunEvent) -> None:
        """In the main thread: something happened."""
        if isinstance(event, RankLost):
            self._num_lost[event.loss.rank] += 1
        elif isinstance(event, RankJoined):
            self._num_joined[event.rank] += 1
        if self.run is not None:
            self.run.events.append(event)
        log_event(self._options.log, self._plan, event)

    def _conclude(self, run: Run) -> None:
        """All ranks have told what they counted."""
        current = self._epochs.current
        run.plan = self._epochs.plan
        if isinstance(self._main, Leading):
            run.ranks = self._main.summaries()
        elif current is not None:
            run.ranks = {0: current.summary()}

    def _callbacks(self, number: int) -> RankCallbacks:
        return RankCallbacks(streaming=self.streaming, fail=self._failed_in(number), wake=self.box.wake)

    def _failed_in(self, number: int) -> Callable[[BaseException], None]:
        def fail(error: BaseException) -> None:
            if isinstance(error, PeerLostError) and self._watch is not None:
                self._watch.suspect(number, error.rank, str(error))
            else:
                self.fail(error)

        return fail


def _shares_of_ends(ends: Ends) -> dict[str, float]:
    """Of a message's period, what feeding it and taking its results take, over the whole run."""
    arrivals = ends.collector.arrivals
    period_ns = arrivals.total_ns / arrivals.count if arrivals.count else 0.0
    parts = {"feeding": ends.feeder.busy, "writing": ends.collector.busy}
    return {name: min(1.0, busy.total_ns / busy.count / period_ns) if period_ns and busy.count else 0.0
            for name, busy in parts.items()}  # fmt: skip
