"""The work of a pipeline's rank: takes its shard, and moves microbatches through it until all is through."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import torch

from edgecompile.contract.generation import StateSpec
from edgecompile.contract.plan import Stage
from edgecompile.execution.allocator import keep_freed_memory
from edgecompile.execution.slot_state import SlotState
from edgecompile.execution.torchscript import plain_execution
from edgelaunch.common.plan_parts import links_of, result_specs, state_of_stage
from edgelaunch.common.rank_figures import LinkCount
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.rank_summary import LinkSummary, RankSummary, StageSummary
from edgelaunch.pipeline.rank import EpochRole, Rank
from edgelaunch.pipeline.result_counters import Ends
from edgelaunch.pipeline.shard_loader import Loader
from edgelaunch.pipeline.stage_shard import run_shard
from edgelaunch.pipeline.text_stage import Run, TextStage
from edgelaunch.process.slower_cores import cpu_share, slowed_down
from edgelaunch.process.steps_alone import steps_alone
from edgelaunch.transport.counters import StageClock, Transfers
from edgelaunch.transport.links import Boundary, Consumer, LocalLink, Producer, ReceiveLink, SendLink
from edgelaunch.transport.message_buffers import END, Layout

__all__ = ["StageEpoch", "StageWork"]


class StageWork:
    """What a process keeps from one epoch to the next: its shard, and what was counted."""

    def __init__(self, options: RankOptions, ends: Ends | None) -> None:
        """`ends` are the data host's, rank 0; the others have none."""
        assert (options.rank == 0) == (ends is not None)
        self.options, self.ends = options, ends
        self._loader = Loader(options)
        self.load = self._loader.load
        """Gives the stage's module, and lets go of the one before where that is another."""
        self.computing = threading.Lock()
        """Held while a stage runs: a thread that was abandoned finishes its microbatch first."""
        self._clocks: dict[tuple[int, int], StageClock] = {}
        self._state: tuple[tuple[StateSpec, ...], SlotState] | None = None
        self._busy: dict[tuple[int, str], Transfers] = {}
        """By the first unit after the cut, and the direction."""

    @property
    def clocks(self) -> dict[tuple[int, int], StageClock]:
        """By the units of the stage."""
        return self._clocks

    def busy(self, cut: int, direction: str) -> Transfers:
        """The counter of a link, which resumes where the one before it, at the same cut, stopped."""
        return self._busy.setdefault((cut, direction), Transfers())

    def state(self, stage: Stage) -> SlotState | None:
        """The keys and values of the stage, which outlive an epoch; None where it keeps none."""
        plan = self.options.plan
        specs = state_of_stage(plan, stage)
        if self._state is not None and self._state[0] == specs:
            return self._state[1]
        self._state = None  # its memory goes first
        if specs and plan.generation is not None:
            generation = plan.generation
            made = SlotState(specs, generation.slots, generation.context, self.options.device)
            self._state = specs, made
            return made
        return None

    def prepare(self, set_ready: Callable[[bool], None]) -> None:
        self._loader.set_ready = set_ready
        stage = self.options.plan.stage_of_rank(self.options.rank)
        if stage is not None:
            with self.computing:
                self.load(stage)
            return
        keep_freed_memory()
        self.options.log("the data host, no stage: ready", event="ready")

    def in_epoch(self, role: EpochRole) -> StageEpoch:
        return StageEpoch(self, role)


class StageEpoch:
    """One epoch of it. Boundary number 0 feeds stage 0, number i + 1 comes out of stage i."""

    def __init__(self, work: StageWork, role: EpochRole) -> None:
        self._work, self._role, self._plan = work, role, role.plan
        self._options, self._rank = work.options, work.options.rank
        self._stage = role.plan.stage_of_rank(self._rank)
        self._abandoned = False
        self._lock = threading.Lock()
        self._local: dict[int, LocalLink] = {}
        self._wires: list[tuple[int, SendLink | ReceiveLink]] = []

    def run(self, rank: Rank) -> None:
        module = None
        if self._stage is not None:
            with self._work.computing:
                rank.check()
                module = self._work.load(self._stage)
        if len(self._role.group) > 1:
            pairs = links_of(self._plan)
            rank.connect(other for pair in pairs if self._rank in pair for other in pair - {self._rank})
        rank.begin_streaming()
        ends = self._start_ends(rank, self._work.ends) if self._work.ends is not None else ()
        if self._stage is not None and module is not None:
            number = self._stage.stage
            source, sink = self._input(rank, number), self._output(rank, number + 1)
            with self._work.computing:
                self._run_stage(self._stage, self._running(module, self._stage), source, sink)
        for thread in ends:
            thread.join()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            local = list(self._local.values())
        for link in local:
            link.abandon()

    def summary(self) -> RankSummary:
        send, receive = {}, {}
        for boundary, link in self._wires:
            busy, num_bytes = link.busy.summary(), link.busy.num_bytes
            if isinstance(link, SendLink):
                send[boundary] = LinkSummary(busy=busy, num_bytes=num_bytes)
            else:
                receive[boundary] = LinkSummary(busy=busy, num_bytes=num_bytes, share_timed=link.busy.share_timed)
        stage = self._clock(self._stage).summary() if self._stage is not None else StageSummary()
        return RankSummary(stage=stage, send=send, receive=receive)

    def received(self) -> dict[int, LinkCount]:
        return {boundary: link.busy.counted() for boundary, link in list(self._wires) if isinstance(link, ReceiveLink)}

    # --- boundaries --------------------------------------------------------------------------------------------------

    def _layout(self, boundary: int) -> Layout:
        plan = self._plan
        specs = plan.stages[boundary - 1].outputs if boundary else plan.inputs
        if boundary == len(plan.stages):
            specs = result_specs(plan)
        return Layout(specs, bytes.fromhex(self._options.plan_sha256)[:16], self._plan.model.dims)

    def _boundary(self, boundary: int) -> Boundary:
        runtime = self._plan.runtime
        return Boundary(layout=self._layout(boundary), num_buffers_in=runtime.num_buffers_in,
                        num_buffers_out=runtime.num_buffers_out, first=self._role.first)  # fmt: skip

    def _rank_at(self, stage: int) -> int:
        """The rank of a stage; before the first and after the last is the data host."""
        return self._plan.stages[stage].rank if 0 <= stage < len(self._plan.stages) else 0

    def _output(self, rank: Rank, boundary: int) -> Producer:
        peer = self._rank_at(boundary)
        if peer == self._rank:
            return self._local_link(boundary)
        busy = self._work.busy(self._cut(boundary), SendLink.__name__)
        link = rank.epoch.send_link(peer, boundary, self._boundary(boundary), busy)
        self._wires.append((boundary, link))
        return link

    def _input(self, rank: Rank, boundary: int) -> Consumer:
        peer = self._rank_at(boundary - 1)
        if peer == self._rank:
            return self._local_link(boundary)
        busy = self._work.busy(self._cut(boundary), ReceiveLink.__name__)
        link = rank.epoch.receive_link(peer, boundary, self._boundary(boundary), busy)
        self._wires.append((boundary, link))
        return link

    def _cut(self, boundary: int) -> int:
        """The first unit after a boundary."""
        stages = self._plan.stages
        return stages[boundary].units[0] if boundary < len(stages) else stages[-1].units[1] + 1

    def _local_link(self, boundary: int) -> LocalLink:
        with self._lock:
            if boundary not in self._local:
                # one being filled, one being read, and what the plan lets wait between
                self._local[boundary] = LocalLink(self._layout(boundary), self._plan.runtime.num_buffers_in + 1)
            link = self._local[boundary]
            if self._abandoned:
                link.abandon()
            return link

    def _start_ends(self, rank: Rank, ends: Ends) -> tuple[threading.Thread, ...]:
        """The data host's."""
        number, first = self._role.number, self._role.first
        sink, source = self._output(rank, 0), self._input(rank, len(self._plan.stages))
        return (
            rank.thread("feeder", lambda: ends.feeder.send(number, sink, first)),
            rank.thread("collector", lambda: ends.collector.collect(number, source)),
        )

    # --- the stage -------------------------------------------------------------------------------------------------

    def _clock(self, stage: Stage) -> StageClock:
        return self._work.clocks.setdefault(stage.units, StageClock())

    def _running(self, module: Callable[..., Any], stage: Stage) -> Run:
        return slowed_down(self._at_full_speed(module, stage), cpu_share(os.environ), steps_alone(os.environ))

    def _at_full_speed(self, module: Callable[..., Any], stage: Stage) -> Run:
        device = self._options.device
        if self._plan.generation is not None:
            return TextStage(self._plan, stage, module, device, self._work.state(stage))
        return lambda tensors, sizes: run_shard(module, stage, tensors, device, sizes)

    def _run_stage(self, stage: Stage, run: Run, source: Consumer, sink: Producer) -> None:
        """The compute loop. An output may be a view of an input, so the input is released only after the packing."""
        clock = self._clock(stage)
        with torch.inference_mode(), plain_execution():
            while True:
                begin_ns = perf_counter_ns()
                slot = source.get()
                got_ns = perf_counter_ns()
                header = slot.read_header()
                if header.end:
                    break
                sizes = dict(zip(self._plan.model.dims, header.sizes, strict=True))
                outputs = run(slot.tensors, sizes)
                computed_ns = perf_counter_ns()
                out = sink.acquire()
                acquired_ns = perf_counter_ns()
                out.resize(header.sizes)
                out.fill(outputs)
                del outputs
                out.write_header(header.sequence, header.num_valid)
                sink.publish(out)
                source.release(slot)
                clock.add(begin_ns, got_ns, computed_ns, acquired_ns, perf_counter_ns())
        out = sink.acquire()
        out.write_header(header.sequence, 0, END)
        sink.publish(out)
