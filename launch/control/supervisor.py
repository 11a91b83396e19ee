"""Runs one process of a pipeline from epoch to epoch, as long as it lives.

A rank that is lost ends an epoch, not the run. Those that are left keep their process, their shard and their
connection to rank 0's store, leave the epoch, and join the next one, in which what was under way is sent again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.execution.allocator import keep_freed_memory
from edgelaunch.common.failures import AlreadyRunningError, Failure, FailureBox, PeerLostError, TooLateError, rank_name
from edgelaunch.common.items import Results, Source
from edgelaunch.common.plan_parts import plan_without
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.control.heartbeats import WAITS_FOR, Watch
from edgelaunch.control.membership import DONE, HALT, RUN, Announcement
from edgelaunch.control.pace import Counters, Load, Overview, Pace
from edgelaunch.control.recovery import Coordinator, Form, Halt
from edgelaunch.control.roster import LATE
from edgelaunch.control.shutdown import await_farewells, collect_summaries
from edgelaunch.pipeline.feed import Collector, Feeder
from edgelaunch.pipeline.in_flight import Flight
from edgelaunch.pipeline.rank import EpochRole, Rank, RankCallbacks, StageState, StreamEnds
from edgelaunch.pipeline.shard_loader import Loader
from edgelaunch.process.abandoned_threads import await_at_exit
from edgelaunch.process.waiting import Waiting
from edgelaunch.store.joining import meet
from edgelaunch.store.meeting import Board, Meeting
from edgelaunch.transport.counters import PARTS
from edgelaunch.transport.link_watch import LinkWatch
from edgelaunch.transport.shard_transfer import ShardServer, TransferContext, fetch_shards

__all__ = ["Run", "Supervisor"]

POLL_S = 0.2
URGENT_POLL_S = 0.01
STALL_S = 2.0
"""A main loop that was so long away, or half the time of detection, stood still together with all other threads."""
JOIN_S = 0.5
"""A thread may be in the caller's own iterable, or in a long computation: it is left behind then."""


@dataclass
class Run:
    """What rank 0 has after a run: the ends' counters, and each rank's summary."""

    plan: Plan
    """The plan as it ran last: with a contingency's stages where a rank was missing at the end."""
    feeder: Feeder
    collector: Collector
    ranks: dict[int, dict[str, Any]]
    pauses_s: list[float]
    """For each recovery, the time from the last result before it to the first after it."""


class Supervisor:
    """One process's part in a run; `wait` returns its outcome. The bytes of its shards have been checked."""

    def __init__(
        self,
        options: RankOptions,
        source: Source | None = None,
        results: Results | None = None,
        lost: Callable[[int, int], None] = lambda rank, process: None,
        last_resort: Callable[[Failure], None] = lambda failure: None,
    ) -> None:
        """`source` and `results` are the data host's, rank 0; the others have none.

        `lost` is called on rank 0 with each rank that fell silent and the number of its process, for whoever can start
        it again. `last_resort` is called where the main thread itself hangs in a store that does not answer.
        """
        assert (options.rank == 0) == (source is not None) == (results is not None)
        self._options, self._plan, self._rank = options, options.plan, options.rank
        self._lost, self._last_resort = lost, last_resort
        self._looked = time.monotonic()
        self.box = FailureBox()
        self.run: Run | None = None
        self.streaming = threading.Event()
        """Set once all ranks have been connected for the first time."""
        self._watch: Watch | None = None
        self._board: Board | None = None
        self._coordinator: Coordinator | None = None
        self._server: ShardServer | None = None
        self._store = StageState(options, Loader(options, self._set_ready).load)
        self._pace = Pace()
        self._received_bytes = 0
        self._flight = Flight()
        self._ends: StreamEnds | None = None
        if source is not None and results is not None:
            feeder = Feeder(options.plan.model.microbatch, self._flight)
            self._ends = StreamEnds(feeder, Collector(self._flight, results))
            self.run = Run(options.plan, feeder, self._ends.collector, {}, [])
        self._source = source
        self._current: Rank | None = None
        self._announcement: Announcement | None = None
        self._waiting, self._waits_for = Waiting(options.log), ""
        self._number = 0
        self._pauses_s: list[float] = []
        self._given_up = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._thread("join", self._join)
        source, ends = self._source, self._ends
        if source is not None and ends is not None:
            self._thread("source", lambda: self._draw(ends.feeder, source))

    def wait(self) -> Failure | None:
        """Until the run is complete (None), has failed or is abandoned. Serves signals: it waits in Python."""
        threading.Thread(target=self._watch_over, name="watchdog", daemon=True).start()
        self._looked = time.monotonic()
        stall_s = min(STALL_S, self._plan.runtime.detect_s / 2)
        while not self.box.ended and not self._given_up:
            urgent = self._coordinator is not None and self._coordinator.recovering
            self.box.wait(URGENT_POLL_S if urgent else POLL_S)
            before, self._looked = self._looked, time.monotonic()
            if self._looked - before < stall_s:
                self._check_watch()
            elif self._watch is not None:
                self._watch.last_answer = self._looked  # torch.jit.load keeps Python's lock: all threads stood still
            if not self.box.ended and not self._given_up:
                self._step(self._looked)
        return None if self.box.finished else self.box.failure

    def counters(self) -> Counters:
        """From any thread."""
        clocks = list(self._store.clocks.values())
        plan = self._plan_now()
        roster = self._watch.roster if self._watch is not None else None
        return Counters(
            rank=self._rank, host=self._plan.hosts[self._rank].name, epoch=self._number,
            num_microbatches=sum(clock.compute.count for clock in clocks),
            stage_ns={part: sum(getattr(clock, part).total_ns for clock in clocks) for part in PARTS},
            received_bytes=self._load().received_bytes,
            num_items=self._ends.collector.num_items if self._ends is not None else None,
            num_ranks=1 + (len(roster.states()) if roster is not None else 0),
            predicted_items_per_s=plan.predicted.throughput_items_per_s,
        )  # fmt: skip

    def overview(self) -> Overview:
        """On rank 0, from any one thread: the run as it is now."""
        self._pace.add(self._load())
        roster = self._watch.roster if self._watch is not None else None
        others = {rank: state.pace for rank, state in roster.states().items()} if roster is not None else {}
        return Overview(plan=self._plan_now(), paces={0: self._pace, **others}, num_in_flight=self._flight.num_items())

    def _load(self) -> Load:
        """From any thread."""
        clocks, current = list(self._store.clocks.values()), self._current
        self._received_bytes = current.received_bytes() if current is not None else self._received_bytes
        compute_ns = sum(clock.compute.total_ns for clock in clocks)
        return Load(at_ns=time.monotonic_ns(), compute_ns=compute_ns, received_bytes=self._received_bytes)

    def _plan_now(self) -> Plan:
        return plan_without(self._plan, self._announcement.without if self._announcement is not None else None)

    def tell(self, failure: Failure) -> None:
        """Tells the other ranks why this one ends. Takes 1.5 s at most."""
        self.box.put(failure)
        if self._watch is not None and not failure.private:
            self._watch.told_all(failure)

    def leave(self, failure: Failure) -> None:
        """Tells rank 0 that this rank leaves, so that the others continue without it. Takes 1.5 s at most."""
        self.box.put(failure)
        if self._watch is not None:
            self._watch.leave(failure.message)

    def abandon(self) -> None:
        """Ends all threads of this process's rank, for a process that lives on. Takes a few seconds at most."""
        self._given_up = True
        self.box.wake()
        if self._watch is not None:
            self._watch.stop()
        if self._server is not None:
            self._server.stop()
            self._threads.append(self._server.thread)
        self._flight.switch(0)
        if self._current is not None:
            self._current.abandon(JOIN_S)
            self._threads.extend(self._current.threads)
        for thread in self._threads:
            thread.join(JOIN_S)
            if thread.is_alive():
                await_at_exit(thread)

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

    def fail(self, error: BaseException) -> None:
        """Called from any thread with the exception that ended it. Only a lost rank can be recovered from."""
        if isinstance(error, PeerLostError):
            message = f"{rank_name(self._plan, 0)} is gone: its store no longer answers"
            self.box.put(Failure.unreachable(message, str(error)))
            return
        self.box.put(Failure.of(self._rank, error))

    def _check_watch(self) -> None:
        """A store call through a cut link hangs whatever its timeout: then the watch thread's silence tells."""
        silent_s = self._watch.silent_s(time.monotonic()) if self._watch is not None else 0.0
        if silent_s > (1 if self._rank else 2) * self._plan.runtime.detect_s:
            whose = rank_name(self._plan, 0) if self._rank else "this rank's own store"
            hint = "" if self._rank else ": is its network down?"
            self.box.put(Failure.unreachable(f"{whose} stopped answering {silent_s:.1f} s ago{hint}"))

    def _watch_over(self) -> None:
        """Rank 0's main thread calls the store too, and such a call may never come back."""
        limit_s = 3 * self._plan.runtime.detect_s
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
            self._flight.switch(1)
            self._enter(Announcement(number=1, phase=RUN, without=None, members={0: ""}, first=0))
            return
        if self._options.lacking:
            watch = self._meet()
            if not self._fetch(watch):
                return
            self._prepare()
        else:
            with ThreadPoolExecutor(1) as pool:
                preparing = pool.submit(self._prepare)  # while the others come
                watch = self._meet()
                preparing.result()
        watch.set_ready(True)

    def _fetch(self, watch: Watch) -> bool:
        """Gets the shards that are not here; whether they are now."""
        try:
            fetch_shards(
                TransferContext.of(self._options, self._store.seal), list(self._options.lacking), self._options.log
            )
        except UserError as error:
            # a rank that comes too late to be missed must not end the others' run
            self.box.put(replace(Failure.of(self._rank, error), private=watch.announcement is not None))
            return False
        return True

    def _meet(self) -> Watch:
        options, timeout_s = self._options, self._plan.runtime.timeout_s
        self._board, door = meet(options)
        seal = self._store.seal = self._board.seal
        board = Board(options.endpoint, serve=False, timeout_s=timeout_s, seal=seal)
        links = LinkWatch.of(options, seal, self.fail)
        self._watch = watch = Watch(
            board, self._plan, self._rank, options.plan_sha256, self.box, links, self._load, door
        )
        if watch.roster is not None and door is not None:
            self._coordinator = Coordinator(self._plan, watch.roster, options.log, self._lost, door.turned_away)
            self._server = ShardServer(TransferContext.of(options, seal), options.log)
        return watch

    def _prepare(self) -> None:
        """Gets ready to take part."""
        stage = self._plan.stage_of_rank(self._rank)
        if stage is not None:
            with self._store.computing:
                self._store.load(stage)
            return
        keep_freed_memory()
        self._options.log("the data host, no stage: ready")

    def _set_ready(self, ready: bool) -> None:
        if self._watch is not None:
            self._watch.set_ready(ready)

    def _draw(self, feeder: Feeder, source: Source) -> None:
        while not self.streaming.wait(POLL_S):
            if self.box.ended or self._given_up:
                return
        feeder.draw(source.items)
        self._flight.end()

    # --- from one epoch to the next -----------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        if self._rank == 0:
            if self._current is not None and self._current.complete:
                self._conclude(self._current)
            elif self._coordinator is not None:
                self._lead(self._coordinator, now)
        elif self._watch is not None:
            self._follow(self._watch)

    def _enter(self, announcement: Announcement) -> None:
        """Begins an epoch; its threads do the rest."""
        self._number = announcement.number
        plan = plan_without(self._plan, announcement.without)
        group = announcement.group(plan)
        if self._rank not in group:
            return  # there is no stage for this rank without the one that is lost
        place = EpochRole(number=announcement.number, plan=plan, group=group, first=announcement.first)
        owner = RankCallbacks(streaming=self.streaming, fail=self._failed_in(announcement.number), wake=self.box.wake)
        self._current = self._new_rank(place, owner)
        self._current.start()

    def _new_rank(self, place: EpochRole, owner: RankCallbacks) -> Rank:
        return Rank(place, self._store, self._ends, owner)

    def _leave(self) -> None:
        if self._current is not None:
            self._current.abandon()
            self._threads = [thread for thread in (*self._threads, *self._current.threads) if thread.is_alive()]
            self._current = None

    def _failed_in(self, number: int) -> Callable[[BaseException], None]:
        def fail(error: BaseException) -> None:
            if isinstance(error, PeerLostError) and self._watch is not None:
                self._watch.suspect(number, error.rank, str(error))
            else:
                self.fail(error)

        return fail

    def _follow(self, watch: Watch) -> None:
        """Any rank but 0: does what rank 0 announces."""
        if watch.verdict:
            kind = TooLateError if watch.verdict == LATE else AlreadyRunningError
            self.box.put(Failure.of(self._rank, kind(watch.verdict)))
            return
        if watch.verdict is not None:
            self._leave()
            watch.renew()
            self._options.log("was unreachable and considered lost: rejoining")
        announcement = watch.announcement
        through = self._current is not None and self._current.complete
        watch.hurry(through or announcement is None or announcement.phase == HALT)
        if announcement is not None and announcement.phase == RUN:
            self._waiting.over()
        elif watch.waits_for:
            self._waiting.tell(watch.waits_for, now=time.monotonic())
        if announcement is None or announcement == self._announcement:
            return
        self._announcement = announcement
        if announcement.phase == HALT or announcement.number > self._number:
            self._leave()
        mine = announcement.members.get(self._rank) == watch.incarnation
        if announcement.phase == RUN and announcement.number > self._number and mine:
            self._enter(announcement)

    # --- rank 0 ------------------------------------------------------------------------------------------------------

    def _lead(self, coordinator: Coordinator, now: float) -> None:
        """Rank 0: decides, and announces it."""
        assert self._ends is not None
        assert self._watch is not None
        collector = self._ends.collector
        for pause_ns in collector.take_pauses():
            self._pauses_s.append(pause_ns / 1e9)
            self._options.log(f"results again, {pause_ns / 1e9:.2f} s after the last one")
        action = coordinator.step(now, collector.num_items)
        if isinstance(action, Failure):
            self.box.put(action)
        elif isinstance(action, Halt):
            assert self._announcement is not None
            self._announce(replace(self._announcement, phase=HALT))
            self._flight.switch(0)
            collector.pause()
            self._leave()
        elif isinstance(action, Form):
            number = self._number + 1
            first = self._flight.switch(number)
            announcement = Announcement(
                number=number, phase=RUN, without=action.without, members=action.members, first=first
            )
            self._announce(announcement)
            coordinator.formed(announcement)
            self._enter(announcement)
        self._watch.hurry(coordinator.recovering)
        self._say_waiting(coordinator, now)

    def _say_waiting(self, coordinator: Coordinator, now: float) -> None:
        """And tells the others, who wait too."""
        waits_for, most_s = coordinator.waits_for()
        if not waits_for:
            self._waiting.over()
        else:
            self._waiting.tell(waits_for, most_s, now)
        if waits_for != self._waits_for and self._board is not None:
            self._waits_for = waits_for
            self._board.put(WAITS_FOR, waits_for)

    def _announce(self, announcement: Announcement) -> None:
        assert self._board is not None
        self._announcement = announcement
        self._board.put("announcement", announcement.to_json())

    def _conclude(self, current: Rank) -> None:
        """All results are there: collects what the others counted, and lets them go. Rank 0 goes last."""
        assert self.run is not None
        self.run.plan, self.run.pauses_s = current.place.plan, self._pauses_s
        self.run.ranks = {0: current.summary()}
        if self._board is not None and self._watch is not None and self._announcement is not None:
            assert self._watch.roster is not None
            roster = self._watch.roster
            meeting = Meeting(self._board, current.place.number, current.place.group, bool)
            collect_summaries(self.run.plan, self.run.ranks, meeting, roster)
            self.box.parting = True
            for incarnation, verdict in roster.close().items():
                self._board.put(f"verdict/{incarnation}", verdict)
            members = {0: "", **{rank: state.incarnation for rank, state in roster.states().items()}}
            self._announce(replace(self._announcement, phase=DONE, members=members))
            await_farewells(self._board, roster)
        self.box.finish()
