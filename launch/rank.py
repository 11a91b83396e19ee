"""One rank: joins the others, loads its shard, and moves microbatches until the stream ends.

Knows nothing of command lines or recovery. All work is done in threads, so that the thread that started it stays free
to hear a signal: several torch calls wait in C++ where no signal is served.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import torch

from edgecompile.plan import Plan, Stage
from edgelaunch.allocator import keep_freed_memory
from edgelaunch.failures import Abandoned, Failure, FailureBox, PeerLostError, rank_name
from edgelaunch.feed import Collector, Feeder
from edgelaunch.identity import Endpoint
from edgelaunch.items import Results, Source
from edgelaunch.left_behind import await_at_exit
from edgelaunch.links import Consumer, LocalLink, Producer, ReceiveLink, SendLink
from edgelaunch.meeting import Board, Meeting
from edgelaunch.messages import END, Layout
from edgelaunch.shards import load_shard, run_shard
from edgelaunch.timing import StageClock
from edgelaunch.transport import Generation, Member, local_address
from edgelaunch.watch import Watch

__all__ = ["Rank", "RankOptions", "Run"]

STALL_S = 2.0
JOIN_S = 0.5
"""A thread may be in the caller's own iterable, or in a long computation: it is left behind then."""
SUSPICION_S = 1.5
"""How long the true cause of a broken connection may take to arrive through the store."""


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    plan: Plan
    folder: Path
    """The plan's folder, which its paths are relative to."""
    plan_sha256: str
    rank: int
    endpoint: Endpoint
    threads: int
    device: str
    """`cpu` or `cuda`."""
    log: Callable[[str], None]


@dataclass
class Run:
    """What rank 0 has after a run: the ends' counters, and each rank's summary."""

    feeder: Feeder
    collector: Collector
    ranks: dict[int, dict[str, Any]]


class Rank:
    """Runs one rank in threads of this process; `wait` returns what came of it. Its shard's bytes have been checked."""

    def __init__(self, options: RankOptions, source: Source | None = None, results: Results | None = None) -> None:
        """`source` and `results` are the data host's, rank 0; the others have none."""
        assert (options.rank == 0) == (source is not None) == (results is not None)
        self._options, self._source, self._results = options, source, results
        self._plan, self._rank = options.plan, options.rank
        self._stage = options.plan.stage_of_rank(options.rank)
        self.box = FailureBox()
        self.run: Run | None = None
        self.streaming = threading.Event()
        """Set once all ranks are ready."""
        self._watch: Watch | None = None
        self._generation: Generation | None = None
        self._local: dict[int, LocalLink] = {}
        self._wires: list[tuple[int, SendLink | ReceiveLink]] = []
        self._clock = StageClock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._thread("rank", self._body)

    def wait(self) -> Failure | None:
        """Until the run is complete (None) or has failed. Serves signals meanwhile: it waits in Python."""
        looked = time.monotonic()
        while self.box.failure is None and not self.box.finished:
            if self.box.suspicion is not None:
                self._await_cause()
            self.box.wait(0.2)
            before, looked = looked, time.monotonic()
            if looked - before < STALL_S:
                self._check_watch()
            elif self._watch is not None:
                self._watch.last_answer = looked  # torch.jit.load keeps Python's lock: all threads stood still
        if self.box.finished:
            return None
        return self.box.failure

    def tell(self, failure: Failure) -> None:
        """Tells the other ranks why this one ends. Takes 1.5 s at most."""
        self.box.put(failure)
        if self._watch is not None and not failure.private:
            self._watch.told_all(failure)

    def abandon(self) -> None:
        """Ends all threads of this rank, for a process that goes on. Takes a few seconds at most."""
        self.box.abandoned = True
        if self._watch is not None:
            self._watch.stop()
        for link in self._local.values():
            link.abandon()
        if self._generation is not None:
            self._generation.abandon()
        for thread in self._threads:
            thread.join(JOIN_S)
            if thread.is_alive():
                await_at_exit(thread)

    # --- failures ------------------------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """Called from any thread with the exception that ended it."""
        if isinstance(error, Abandoned):
            return
        if isinstance(error, PeerLostError):
            message = f"{rank_name(self._plan, error.rank)} is gone: it closed its connection"
            self.box.suspect(Failure(rank=error.rank, kind="lost", message=message, trace=str(error)))
        else:
            self.box.put(Failure.of(self._rank, error))

    def _await_cause(self) -> None:
        deadline = time.monotonic() + SUSPICION_S
        while self.box.failure is None and not self.box.finished and time.monotonic() < deadline:
            time.sleep(0.02)
        suspicion = self.box.suspicion
        if suspicion is not None and not self.box.finished:
            self.box.put(suspicion)

    def _check_watch(self) -> None:
        """A store call through a cut link hangs whatever its timeout: then the watch thread's silence tells."""
        silent_s = time.monotonic() - self._watch.last_answer if self._watch is not None else 0.0
        if self._rank and silent_s > self._plan.runtime.timeout_s:
            message = f"{rank_name(self._plan, 0)} stopped answering {silent_s:.1f} s ago"
            self.box.put(Failure(rank=0, kind="lost", message=message))

    # --- the run -------------------------------------------------------------------------------------------------

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def body() -> None:
            try:
                work()
            except BaseException as error:
                self.fail(error)

        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _body(self) -> None:
        torch.set_num_threads(self._options.threads)
        meeting = self._join() if len(self._plan.hosts) > 1 else None
        module = self._load()
        keep_freed_memory()
        if meeting is not None:
            self._connect(meeting)
        self.streaming.set()
        ends = self._start_ends() if self._source is not None else None
        if self._stage is not None and module is not None:
            number = self._stage.stage
            self._run_stage(self._stage, module, self._input(number), self._output(number + 1))
        if ends is not None:
            self._finish_ends(*ends)
        summary = self._summary()
        if meeting is not None:
            meeting.give_timing(summary)
        if self.run is not None:
            self.run.ranks = meeting.collect_timing() if meeting is not None else {0: summary}
        if meeting is not None:
            with contextlib.suppress(PeerLostError):  # the results are there, and so is every rank's summary
                meeting.part()
        self.box.finish()

    def _join(self) -> Meeting:
        options = self._options
        timeout_s = self._plan.runtime.timeout_s
        serve = self._rank == 0 and not options.endpoint.agent
        self._board = Board(options.endpoint, serve=serve, timeout_s=timeout_s)
        self._watch = Watch(Board(options.endpoint, serve=False, timeout_s=timeout_s), self._plan, self._rank, self.box)
        meeting = Meeting(self._board, self._plan, self._rank, options.plan_sha256, self.box)
        meeting.join()
        self._watch.joined.set()
        return meeting

    def _load(self) -> Callable[..., Any] | None:
        if self._stage is None:
            self._options.log("the data host, no stage: ready")
            return None
        module = load_shard(self._stage, self._options.folder, self._options.device)
        first, last = self._stage.units
        threads = f"{self._options.threads} thread" + ("s" if self._options.threads > 1 else "")
        self._options.log(f"stage {self._stage.stage}, units {first}-{last}, {self._options.device}, {threads}: ready")
        return module

    def _connect(self, meeting: Meeting) -> None:
        meeting.all_ready()
        address = local_address(self._plan.hosts[self._rank].address, self._options.endpoint.address)
        member = Member(
            generation=0,
            rank=self._rank,
            num_ranks=len(self._plan.hosts),
            address=address,
            timeout_s=self._plan.runtime.timeout_s,
        )
        self._generation = Generation(self._board.store, member, self.fail)

    # --- boundaries: number 0 feeds stage 0, number i + 1 comes out of stage i ------------------------------------

    def _layout(self, boundary: int) -> Layout:
        specs = self._plan.stages[boundary - 1].outputs if boundary else self._plan.inputs
        return Layout(specs, bytes.fromhex(self._options.plan_sha256)[:16])

    def _rank_at(self, stage: int) -> int:
        """The rank of a stage; before the first and after the last is the data host."""
        return self._plan.stages[stage].rank if 0 <= stage < len(self._plan.stages) else 0

    def _output(self, boundary: int) -> Producer:
        peer = self._rank_at(boundary)
        if peer == self._rank:
            return self._local_link(boundary)
        assert self._generation is not None
        link = self._generation.send_link(peer, boundary, self._layout(boundary), self._plan.runtime.num_buffers_out)
        self._wires.append((boundary, link))
        return link

    def _input(self, boundary: int) -> Consumer:
        peer = self._rank_at(boundary - 1)
        if peer == self._rank:
            return self._local_link(boundary)
        assert self._generation is not None
        link = self._generation.receive_link(peer, boundary, self._layout(boundary), self._plan.runtime.num_buffers_in)
        self._wires.append((boundary, link))
        return link

    def _local_link(self, boundary: int) -> LocalLink:
        if boundary not in self._local:
            # one being filled, one being read, and what the plan lets wait between
            self._local[boundary] = LocalLink(self._layout(boundary), self._plan.runtime.num_buffers_in + 1)
        return self._local[boundary]

    # --- the data host's ends --------------------------------------------------------------------------------------

    def _start_ends(self) -> tuple[threading.Thread, threading.Thread]:
        source, results = self._source, self._results
        assert source is not None
        assert results is not None
        feeder = Feeder(self._plan.model.microbatch, self._output(0))
        collector = Collector(self._input(len(self._plan.stages)), feeder.in_flight, results)
        self.run = Run(feeder, collector, {})
        return self._thread("feeder", lambda: feeder.run(source.items)), self._thread("collector", collector.run)

    def _finish_ends(self, feeder: threading.Thread, collector: threading.Thread) -> None:
        feeder.join()
        collector.join()
        if self.box.failure is not None or self.box.suspicion is not None:
            raise Abandoned

    # --- the stage -------------------------------------------------------------------------------------------------

    def _run_stage(self, stage: Stage, module: Callable[..., Any], source: Consumer, sink: Producer) -> None:
        """The compute loop. An output may be a view of an input, so the input is released only after the packing.

        A frozen shard leaves TorchScript's optimiser nothing to gain, and the profiled copy of its graph that it would
        run instead keeps tensors alive for longer: half a resnet50 at microbatch 8 took 70 MB more.
        """
        sequence = 0
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[no-untyped-call]
            while True:
                begin_ns = perf_counter_ns()
                slot = source.get()
                got_ns = perf_counter_ns()
                header = slot.read_header()
                if header.end:
                    break
                outputs = run_shard(module, stage, slot.tensors, self._options.device)
                computed_ns = perf_counter_ns()
                out = sink.acquire()
                acquired_ns = perf_counter_ns()
                out.fill(outputs)
                del outputs
                out.write_header(sequence, header.num_valid)
                sink.publish(out)
                source.release(slot)
                self._clock.add(begin_ns, got_ns, computed_ns, acquired_ns, perf_counter_ns())
                sequence += 1
        out = sink.acquire()
        out.write_header(sequence, 0, END)
        sink.publish(out)

    def _summary(self) -> dict[str, Any]:
        """This rank's counters for rank 0's report; links by the number of their boundary."""
        summary: dict[str, Any] = {"send": {}, "receive": {}}
        if self._stage is not None:
            summary["stage"] = self._clock.summary()
        for boundary, link in self._wires:
            if isinstance(link, SendLink):
                summary["send"][str(boundary)] = link.busy.summary()
            else:
                timed = {"share_timed": link.share_timed()}
                summary["receive"][str(boundary)] = link.busy.summary() | timed
        return summary
