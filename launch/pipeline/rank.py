"""One rank during one epoch: loads its shard, connects to its neighbours and moves microbatches.

Knows nothing of command lines or recovery: when its epoch ends early it is abandoned, and another one is made for
the next. All work is done in threads, so that the thread that started it stays free to hear a signal: several torch
calls wait in C++ where no signal is served.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, TypeVar

import torch
from torch._C._distributed_c10d import Store as GroupStore

from edgecompile.contract.plan import Plan, Stage
from edgelaunch.common.failures import Abandoned
from edgelaunch.common.plan_parts import links_of
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.pipeline.feed import Collector, Feeder
from edgelaunch.pipeline.stage_shard import run_shard
from edgelaunch.process.processes import boot_identity
from edgelaunch.store.meeting import Board, Meeting
from edgelaunch.store.seal import Seal
from edgelaunch.transport.counters import Series, StageClock
from edgelaunch.transport.links import Consumer, LocalLink, Producer, ReceiveLink, SendLink
from edgelaunch.transport.message_buffers import END, Layout
from edgelaunch.transport.process_group import Epoch, Member, local_address

__all__ = ["StreamEnds", "RankCallbacks", "EpochRole", "Rank", "StageState"]

L = TypeVar("L", SendLink, ReceiveLink)

CONNECT_S = 15.0
"""For connecting once every rank has said that it is ready."""


@dataclass(frozen=True, kw_only=True)
class EpochRole:
    """This rank's part in an epoch."""

    number: int
    plan: Plan
    """The plan with this epoch's stages."""
    group: tuple[int, ...]
    """The ranks that take part, in order."""
    first: int
    """The sequence number of the first message."""


@dataclass
class StreamEnds:
    """The data host's ends of the pipeline, which outlive an epoch."""

    feeder: Feeder
    collector: Collector


@dataclass(frozen=True, kw_only=True)
class RankCallbacks:
    """What a rank tells the process that it runs in."""

    streaming: threading.Event
    """Set once all ranks are connected."""
    fail: Callable[[BaseException], None]
    """Called with what ended a thread."""
    wake: Callable[[], None]
    """Called once the rank is complete."""


class StageState:
    """What a process keeps from one epoch to the next: its shard, and what was counted."""

    def __init__(self, options: RankOptions, load: Callable[[Stage], Callable[..., Any]]) -> None:
        """`load`: gives the stage's module, and lets go of the one before where that is another."""
        self.options, self.load = options, load
        self.seal: Seal | None = None
        """Of what the ranks say to each other in the store."""
        self.computing = threading.Lock()
        """Held while a stage runs: a thread that was abandoned finishes its microbatch first."""
        self.clocks: dict[tuple[int, int], StageClock] = {}
        """By the units of the stage."""
        self.busy: dict[tuple[int, str], Series] = {}
        """By the first unit after the cut, and the direction."""


class Rank:
    """Runs one rank in one epoch, in threads of this process."""

    def __init__(
        self,
        place: EpochRole,
        store: StageState,
        ends: StreamEnds | None,
        owner: RankCallbacks,
    ) -> None:
        """`ends` are the data host's, rank 0; the others have none."""
        self._options = store.options
        assert (self._options.rank == 0) == (ends is not None)
        self.place, self._store, self._ends, self._owner = place, store, ends, owner
        self._plan, self._rank = place.plan, self._options.rank
        self._stage = place.plan.stage_of_rank(self._rank)
        self.complete = False
        """Whether all is through: on rank 0 every result is there, elsewhere everything was passed on."""
        self._abandoned = False
        self._lock = threading.Lock()
        self._epoch: Epoch | None = None
        self._meeting: Meeting | None = None
        self._local: dict[int, LocalLink] = {}
        self._wires: list[tuple[int, SendLink | ReceiveLink]] = []
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        self._thread("rank", self._body)

    def abandon(self, wait_s: float = 0.0) -> None:
        """Ends all threads of this epoch; those in a long computation end after it. `wait_s`: for each of them."""
        with self._lock:
            self._abandoned = True
            local, epoch = list(self._local.values()), self._epoch
        for link in local:
            link.abandon()
        if epoch is not None:
            epoch.abandon(wait_s)
        for thread in self.threads:
            thread.join(wait_s)

    def summary(self) -> dict[str, Any]:
        """This rank's counters for rank 0's report; links by the number of their boundary."""
        summary: dict[str, Any] = {"send": {}, "receive": {}, "machine": boot_identity()}
        if self._stage is not None:
            summary["stage"] = self._clock(self._stage).summary()
        for boundary, link in self._wires:
            carried = {"bytes": link.busy.count * self._layout(boundary).num_bytes}
            if isinstance(link, SendLink):
                summary["send"][str(boundary)] = link.busy.summary() | carried
            else:
                timed = {"share_timed": link.share_timed()}
                summary["receive"][str(boundary)] = link.busy.summary() | carried | timed
        return summary

    def received_bytes(self) -> int:
        """Of the links that end here."""
        wires = [(boundary, link) for boundary, link in list(self._wires) if isinstance(link, ReceiveLink)]
        return sum(link.busy.count * self._layout(boundary).num_bytes for boundary, link in wires)

    # --- the run -------------------------------------------------------------------------------------------------

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def body() -> None:
            try:
                work()
            except Abandoned:
                pass
            except BaseException as error:
                if not self._abandoned:
                    self._owner.fail(error)

        thread = threading.Thread(target=body, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def _body(self) -> None:
        module = None
        if self._stage is not None:
            with self._store.computing:
                self._check()
                module = self._store.load(self._stage)
        if len(self.place.group) > 1:
            self._connect()
        self._check()
        self._owner.streaming.set()
        ends = self._start_ends(self._ends) if self._ends is not None else ()
        if self._stage is not None and module is not None:
            number = self._stage.stage
            source, sink = self._input(number), self._output(number + 1)
            with self._store.computing:
                self._run_stage(self._stage, module, source, sink)
        for thread in ends:
            thread.join()
        self._check()
        if self._meeting is not None and self._rank:
            self._meeting.give_timing(self._rank, self.summary())
        self._finish()

    def _finish(self) -> None:
        self.complete = True
        self._owner.wake()

    def _check(self) -> None:
        if self._abandoned:
            raise Abandoned

    def _connect(self) -> None:
        options, place = self._options, self.place
        timeout_s = min(CONNECT_S, self._plan.runtime.timeout_s)
        # of its own: one that waits for a rank that never comes would block all other calls
        self._board = Board(options.endpoint, serve=False, timeout_s=timeout_s, seal=self._store.seal)
        self._meeting = Meeting(self._board, place.number, place.group, lambda: self._abandoned)
        self._meeting.all_ready(self._rank)
        address = local_address(self._plan.hosts[self._rank].address, options.endpoint.address)
        member = Member(
            epoch=place.number, rank=self._rank, group=place.group, peers=self._peers(), address=address,
            timeout_s=timeout_s,
        )  # fmt: skip
        epoch = Epoch(self._group_store, member, self._link_failed)
        with self._lock:
            abandoned, self._epoch = self._abandoned, epoch
        if abandoned:
            epoch.abandon()
            raise Abandoned

    def _group_store(self, pair: str) -> GroupStore:
        self._check()
        return self._board.group_store(f"epoch-{self.place.number}/{pair}")

    def _peers(self) -> tuple[int, ...]:
        """The ranks that this one has links to."""
        return tuple(other for pair in links_of(self._plan) if self._rank in pair for other in pair - {self._rank})

    def _link_failed(self, error: BaseException) -> None:
        if not isinstance(error, Abandoned) and not self._abandoned:
            self._owner.fail(error)

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
        assert self._epoch is not None
        link = self._epoch.send_link(peer, boundary, self._layout(boundary), self._plan.runtime.num_buffers_out)
        return self._counted(boundary, link)

    def _input(self, boundary: int) -> Consumer:
        peer = self._rank_at(boundary - 1)
        if peer == self._rank:
            return self._local_link(boundary)
        assert self._epoch is not None
        link = self._epoch.receive_link(
            peer, boundary, self._layout(boundary), self._plan.runtime.num_buffers_in, self.place.first
        )
        return self._counted(boundary, link)

    def _counted(self, boundary: int, link: L) -> L:
        """The same link, which counts on where the one before it, at the same cut, stopped."""
        stages = self._plan.stages
        cut = stages[boundary].units[0] if boundary < len(stages) else stages[-1].units[1] + 1
        link.busy = self._store.busy.setdefault((cut, type(link).__name__), link.busy)
        self._wires.append((boundary, link))
        return link

    def _local_link(self, boundary: int) -> LocalLink:
        with self._lock:
            if boundary not in self._local:
                # one being filled, one being read, and what the plan lets wait between
                self._local[boundary] = LocalLink(self._layout(boundary), self._plan.runtime.num_buffers_in + 1)
            link = self._local[boundary]
            if self._abandoned:
                link.abandon()
            return link

    # --- the data host's ends --------------------------------------------------------------------------------------

    def _start_ends(self, ends: StreamEnds) -> tuple[threading.Thread, ...]:
        number, first = self.place.number, self.place.first
        sink, source = self._output(0), self._input(len(self._plan.stages))
        return (
            self._thread("feeder", lambda: ends.feeder.send(number, sink, first)),
            self._thread("collector", lambda: ends.collector.collect(number, source)),
        )

    # --- the stage -------------------------------------------------------------------------------------------------

    def _clock(self, stage: Stage) -> StageClock:
        return self._store.clocks.setdefault(stage.units, StageClock())

    def _run_stage(self, stage: Stage, module: Callable[..., Any], source: Consumer, sink: Producer) -> None:
        """The compute loop. An output may be a view of an input, so the input is released only after the packing.

        A frozen shard leaves TorchScript's optimiser nothing to gain, and the profiled copy of its graph that it would
        run instead keeps tensors alive for longer: half a resnet50 at microbatch 8 took 70 MB more.
        """
        clock = self._clock(stage)
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
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
                out.write_header(header.sequence, header.num_valid)
                sink.publish(out)
                source.release(slot)
                clock.add(begin_ns, got_ns, computed_ns, acquired_ns, perf_counter_ns())
        out = sink.acquire()
        out.write_header(header.sequence, 0, END)
        sink.publish(out)
