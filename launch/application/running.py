"""Rank 0 in a process that lives on: starts it, hands it what callers want, watches it, ends it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_run_plan
from edgecompile.execution.allocator import use_one_arena
from edgelaunch.application.statistics import Statistics
from edgelaunch.common.failures import Failure, RankFailedError, failure_words, rank_name
from edgelaunch.common.items import Entry, Source
from edgelaunch.composition import RankStart, run_supervisor, supervised
from edgelaunch.inputs.given_items import GivenItems
from edgelaunch.local.local_run import Children
from edgelaunch.local.placement import OnLoopback, listen_on_loopback
from edgelaunch.outputs.result_files import as_numpy
from edgelaunch.pipeline.callers import Streams
from edgelaunch.process.abandoned_threads import await_at_exit
from edgelaunch.process.cores import keep_to_cores
from edgelaunch.process.limits import check_limits
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.started_rank import request_of_rank

if TYPE_CHECKING:
    from edgelaunch.control.pipeline_state import Event, PipelineState
    from edgelaunch.control.supervisor import Run, Supervisor
    from edgelaunch.generation.text_calls import TextCalls
    from edgelaunch.pipeline.feed import StreamEnds
    from edgelaunch.pipeline.result_counters import Ends

__all__ = ["POLL_S", "Running"]

POLL_S = 0.1
JOIN_S = 2.0
CLOSE_S = 10.0
WINDOWS = 2
"""Of items where lengths vary: those that wait to be chosen, and results that wait for theirs."""


class Running:
    """One run, from `start` to `close`; any thread may call it."""

    def __init__(self, request: RunRequest, *, local: bool, restarts: int, own_process: bool = False) -> None:
        """`local`: the other ranks are started here, each `restarts` times again. `own_process`: this one does nothing
        else, so that this thread and those that it starts may be kept to rank 0's cores.

        Raises:
            UserError: the plan or one of its files is invalid.
        """
        self.plan = plan = read_run_plan(request.plan_path)
        self._request, self._local, self._restarts = request, local, restarts
        self._own_process = own_process
        folder = request.plan_path.resolve().parent
        self.items = GivenItems(plan, folder)
        self.streams = Streams(self.most_under_way(), self._arrays, self._enough_under_way)
        self.texts: TextCalls | None = None
        """Of a plan that generates text."""
        if plan.generation is not None:
            from edgelaunch.generation.text_calls import TextCalls

            self.texts = TextCalls(plan, folder, self.check)
        self._children: Children | None = None
        self._rank: Supervisor | None = None
        self._stream_ends: StreamEnds | None = None
        self._supervisor: threading.Thread | None = None
        self._process = os.getpid()
        self.closed = self.started = False

    def most_under_way(self) -> int:
        """Items that fill the pipeline and those that wait behind them."""
        plan, runtime = self.plan, self.plan.runtime
        messages = len(plan.stages) * (runtime.num_buffers_in + runtime.num_buffers_out) + 2
        if plan.generation is None and self.items.varying:
            messages += WINDOWS * runtime.window
        return messages * plan.model.microbatch

    def start(self) -> None:
        """Until all ranks are connected. Raises UserError or RankFailedError where they are not."""
        self._process, self.started = os.getpid(), True
        try:
            runner = self._start()
            threading.Thread(target=self._watch, name="watch pipeline", daemon=True).start()
            while not runner.streaming.wait(POLL_S):
                self.check()
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Raises RankFailedError where a rank has failed, RuntimeError where the pipeline does not run."""
        if self._process != os.getpid():
            raise RuntimeError("the pipeline belongs to the process that this one was forked from: make another here")
        failure = self._failure
        if self._children is not None and not self.closed:
            failure = self._children.first_failure() or failure
        if failure is not None:
            words = failure_words(self.plan, failure)
            raise RankFailedError(words + (f"\n{failure.trace}" if failure.trace else ""))
        if self.closed:
            raise RuntimeError("the pipeline is closed")
        if self._rank is None:
            raise RuntimeError("the pipeline has not been started: use it in a with statement")

    def submit(self, value: Any, where: str = "item") -> Future[Any]:
        """An item of any kind that the plan takes, and its result. Raises UserError where the plan takes no such."""
        self.check()
        return self.streams.submit(self.items.arrays(value, where))

    # --- what can be asked -----------------------------------------------------------------------------------------

    @property
    def runner(self) -> Supervisor:
        """This process's rank, once it was started."""
        self.check()
        assert self._rank is not None
        return self._rank

    @property
    def ready(self) -> bool:
        """Whether items flow: False while an epoch forms, and before and after."""
        return not self.closed and self._rank is not None and self._rank.ready

    def statistics(self) -> Statistics:
        state, num_waiting = self.state()
        predicted = self.runner.overview().plan.predicted.throughput_items_per_s
        return Statistics.of(state, predicted, num_waiting)

    def state(self) -> tuple[PipelineState, int]:
        """As everybody is shown it; and how many items were submitted and not fed yet."""
        return self.runner.state(), self.streams.num_waiting()

    def events(self, most: int | None = None) -> tuple[Event, ...]:
        """What happened, oldest first; the last 10,000, or `most` of them."""
        return self._rank.events(most) if self._rank is not None else ()

    @property
    def concluded(self) -> Run | None:
        """What all ranks counted, once the run has ended well."""
        rank = self._rank
        return rank.run if rank is not None and rank.box.finished and rank.run is not None and rank.run.ranks else None

    # --- its end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Lets what is under way come out, and ends every rank; one that was never started has none."""
        if self.closed or self._process != os.getpid():  # a forked process has its parent's ranks, and no threads
            return
        if self._rank is None:
            self.closed = True
            return
        self._close_calls()
        deadline = time.monotonic() + CLOSE_S
        while self._failure is None and not self._rank.box.finished and time.monotonic() < deadline:
            self._rank.box.wait(POLL_S)
        self.stop()

    def stop(self) -> None:
        """At once."""
        self.closed = True
        self._close_calls()
        if self._rank is not None:
            self._rank.abandon()
        if self._supervisor is not None:
            self._supervisor.join(JOIN_S)
            await_at_exit(self._supervisor)  # ended by the interpreter inside the store's C++, it would end the process
        if self._children is not None:
            well = self._failure is None and self._rank is not None and self._rank.box.finished
            self._children.end(CLOSE_S if well else 0.0)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _start(self) -> Supervisor:
        if self._local:
            check_limits(self.plan, tuple(range(len(self.plan.hosts))))
        request = self._prepare_children() if self._local else self._request
        if self._own_process:
            keep_to_cores(request.cores)
        start = RankStart.of(request, self.plan, {})
        if start.rank != 0:
            name = rank_name(self.plan, start.rank)
            raise UserError(f"this machine is {name}: a Pipeline runs on rank 0, the data host")
        start.check()
        lacking = start.lacking()
        use_one_arena()
        request_kill = self._children.kill if self._children is not None else lambda request: None
        self._rank = runner = run_supervisor(start, lacking, self._ends, request_kill)
        if self._children is not None:
            for rank in range(1, len(self.plan.hosts)):
                # once this process has imported torch: the one that they are forked from has meanwhile, too
                self._children.start(rank)
        runner.start()
        self._supervisor = threading.Thread(
            target=supervised, args=(runner, 0), kwargs={"started": True}, name="supervise", daemon=True
        )
        self._supervisor.start()
        return runner

    def _ends(self, plan: Plan) -> Ends:
        if self.texts is not None:
            return self.texts.ends(plan)
        from edgelaunch.pipeline.feed import StreamEnds

        source = Source(items=self.streams.items(), num_items=None, what="an application's items")
        self._stream_ends = StreamEnds(plan, source, _Results(self.streams))
        return self._stream_ends

    def _enough_under_way(self) -> bool:
        """Whether each stage has a message, and each another that waits for it."""
        ends = self._stream_ends
        return ends is not None and ends.num_messages() >= 2 * len(self.plan.stages)

    def _arrays(self, value: Any, index: int) -> dict[str, Any]:
        return self.items.arrays(value, f"item {index}")

    def _prepare_children(self) -> RunRequest:
        """Begins what all ranks but 0 are forked from, and returns the request of that one."""
        listener = listen_on_loopback()
        place = OnLoopback(self.plan, listener.getsockname()[1])
        self._children = Children(self.plan, self._request, place, restarts=self._restarts)
        if len(self.plan.hosts) > 1:
            self._children.begin_spare()
        return request_of_rank(self._request, 0, place.settings(0), listen_fd=listener.detach())

    def _watch(self) -> None:
        """Tells all futures of a rank that failed; `check` starts those again that were killed."""
        while not self.closed:
            try:
                self.check()
            except RankFailedError as error:
                self.streams.fail(error)
                return
            except RuntimeError:
                return
            time.sleep(POLL_S)

    @property
    def _failure(self) -> Failure | None:
        """Of this process's rank."""
        box = self._rank.box if self._rank is not None else None
        return box.failure if box is not None and not box.finished else None

    def _close_calls(self) -> None:
        self.streams.close()
        if self.texts is not None:
            self.texts.close()


class _Results:
    """As Results: each to its caller."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        arrays = {name: np.array(as_numpy(tensor)) for name, tensor in outputs.items()}
        self._streams.give(entry.stream, arrays if len(arrays) > 1 else next(iter(arrays.values())))

    def finish(self) -> None:
        pass
