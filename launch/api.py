"""The Python API: `with edgelaunch.Pipeline(plan, local=True) as p: for y in p.stream(items): ...`"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_run_plan
from edgecompile.execution.allocator import use_one_arena
from edgelaunch.common.addresses import read_address
from edgelaunch.common.failures import Failure, RankFailedError, failure_words, rank_name
from edgelaunch.common.items import Entry, Source
from edgelaunch.common.varying import Varying
from edgelaunch.composition import RankStart, run_supervisor, supervised
from edgelaunch.inputs.fitting import fit
from edgelaunch.local.local_run import Children, OnLoopback, listen_on_loopback
from edgelaunch.outputs.result_files import as_numpy
from edgelaunch.pipeline.callers import Streams
from edgelaunch.process.abandoned_threads import await_at_exit
from edgelaunch.process.limits import check_limits
from edgelaunch.request.run_request import DEFAULT_RESTARTS, RunRequest
from edgelaunch.request.started_rank import request_of_rank

if TYPE_CHECKING:
    from edgelaunch.control.supervisor import Supervisor
    from edgelaunch.generation.text_calls import Completion, Prompt, TextCalls
    from edgelaunch.pipeline.result_counters import Ends

__all__ = ["Pipeline"]

POLL_S = 0.1
JOIN_S = 2.0
CLOSE_S = 10.0


Array = npt.NDArray[Any]
Result = Array | dict[str, Array]
"""An array, or a dict by output name where the model has several."""


class Pipeline:
    """A running pipeline whose data host is this process.

    Args:
        plan: path of plan.yaml.
        local: start the other ranks on this machine, all on the CPU. Otherwise `edgelaunch PLAN` runs on their hosts,
            and this process is the plan's rank 0.
        master: ADDRESS:PORT to listen at, else as the plan says.
        secret_file: holds the secret that the ranks share, else $EDGELAUNCH_SECRET; not needed on one machine.
        restarts: with `local`, how often each of the other ranks is started again after it was killed or lost.

    Raises:
        UserError: the plan or one of its files is invalid.
        RankFailedError: from any method, once a rank has failed; names the rank.
    """

    def __init__(
        self, plan: str | Path, *, local: bool = False, master: str | None = None, secret_file: str | None = None,
        restarts: int = DEFAULT_RESTARTS,
    ) -> None:  # fmt: skip
        self._plan = read_run_plan(Path(plan))
        self._request = RunRequest(
            plan_path=Path(plan), quiet=True, secret_file=Path(secret_file) if secret_file is not None else None,
            rank=None if master is None else 0,
            master=read_address("--master", master) if master is not None else None,
        )  # fmt: skip
        if type(restarts) is not int or restarts < 0:
            raise UserError(f"invalid value {restarts!r} for restarts: expected a whole number of 0 or more")
        self._local, self._restarts = local, restarts
        stages, runtime = len(self._plan.stages), self._plan.runtime
        under_way = stages * (runtime.num_buffers_in + runtime.num_buffers_out) + 2
        self._varying = Varying(self._plan)
        if self._varying.names:
            under_way += 2 * runtime.window  # those that wait to be chosen, and results that wait for theirs
        self._streams = Streams(under_way * self._plan.model.microbatch, self._arrays)
        self._texts: TextCalls | None = None
        if self._plan.generation is not None:
            from edgelaunch.generation.text_calls import TextCalls

            self._texts = TextCalls(self._plan, Path(plan).resolve().parent, self._check)
        self._children: Children | None = None
        self._rank: Supervisor | None = None
        self._supervisor: threading.Thread | None = None
        self._closed = self._entered = False
        self._process = os.getpid()

    @property
    def plan(self) -> Plan:
        return self._plan

    def __enter__(self) -> Pipeline:
        self._process = os.getpid()
        if self._entered or self._closed:
            raise RuntimeError("the pipeline was started before: make another Pipeline for another with statement")
        self._entered = True
        atexit.register(self.close)  # one that the application forgets would abort the interpreter at its end
        try:
            runner = self._start()
            while not runner.streaming.wait(POLL_S):
                self._check()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stream(self, items: Iterable[Array | Mapping[str, Array]]) -> Iterator[Result]:
        """Results in the items' order, while later items are still on their way.

        Any number of threads may have a stream under way: their items share the microbatches, and none waits for
        another's items or for another to take its results.

        Args:
            items: arrays without batch dimension, or a mapping from input name to array where the model has several
                inputs. Drawn from a thread of the stream's own, and only as fast as its results are taken.

        Yields:
            An array, or a dict by output name where the model has several; bfloat16 comes as float32.

        Raises:
            UserError: an item does not fit the model's inputs.
            RankFailedError: a rank failed; names it.
            RuntimeError: the pipeline is not in its with statement.
        """
        self._check()
        if self._texts is not None:
            raise UserError(f"stream: {self._plan.model.name} generates text: call generate()")
        if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
            raise UserError(
                f"invalid items of type {type(items).__name__}: expected a sequence or an iterator of items, each an "
                "array or a dict by input name"
            )
        stream = self._streams.open(items)
        try:
            while True:
                there, result = stream.take(self._check, POLL_S)
                if not there:
                    break
                yield result
            if stream.error is not None:
                raise stream.error
            if stream.cancelled:
                self._check()
        finally:
            stream.cancel()

    def __call__(self, batch: Array | Mapping[str, Array]) -> Result:
        """A batch of any size, (N, ...) for each input, to results (N, ...) for each output.

        Raises:
            UserError: the batch is empty, lacks an input, or its inputs differ in length; or as `stream`.
        """
        results = list(self.stream(self._rows(batch)))
        first = results[0]
        if isinstance(first, dict):
            return {name: np.stack([result[name] for result in results]) for name in first}
        return np.stack(results)  # type: ignore[arg-type]

    def _rows(self, batch: Any) -> Iterable[Any]:
        """The items of a batch, which has one or more."""
        names = [spec.name for spec in self._plan.inputs]
        columns = batch if isinstance(batch, Mapping) else {names[0]: batch}
        if set(columns) != set(names):
            given = ", ".join(map(str, columns)) or "nothing" if isinstance(batch, Mapping) else "one array"
            raise UserError(f"invalid batch: it has {given}, and the model takes {', '.join(names)}")
        sizes = {}
        for name, column in columns.items():
            try:
                sizes[name] = len(column)
            except TypeError:
                raise UserError(
                    f"invalid batch of type {type(column).__name__} for the input {name}: expected an array whose "
                    "first dimension counts the items"
                ) from None
        if len(set(sizes.values())) > 1:
            raise UserError(f"invalid batch: the inputs differ in length ({sizes})")
        if not sizes[names[0]]:
            raise UserError("invalid batch: it is empty")
        return [{name: columns[name][index] for name in names} for index in range(sizes[names[0]])]

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[Completion]:
        """Answers to prompts, in their order, of a plan that generates text.

        Args:
            prompts: each a text to be continued, a list of token ids, or a conversation: a list of {role, content}.
            options: the fields of TextOptions: max_tokens, temperature, top_k, top_p, repetition_penalty, seed, stop.

        Raises:
            UserError: the plan generates no text, or a prompt or an option is not allowed.
            RankFailedError: a rank failed; names it.
        """
        return self._text_calls("generate").generate(prompts, options)

    def generate_stream(self, prompt: Prompt, **options: Any) -> Iterator[str]:
        """As generate, of one prompt: its text as it comes. Whoever stops reading frees its place."""
        return self._text_calls("generate_stream").stream(prompt, options)

    def generate_async(self, prompt: Prompt, **options: Any) -> AsyncIterator[str]:
        """As generate_stream, for `async for`."""
        return self._text_calls("generate_async").stream_async(prompt, options)

    def _text_calls(self, name: str) -> TextCalls:
        self._check()
        if self._texts is None:
            raise UserError(f"{name}: {self._plan.model.name} generates no text: call stream()")
        return self._texts

    def close(self) -> None:
        """Lets what is under way come out, and ends every rank; a pipeline that was never started has none."""
        if self._closed or self._process != os.getpid():  # a forked process has the ranks of its parent, and no threads
            return
        if self._rank is None:
            self._closed = True
            return
        self._close_calls()
        deadline = time.monotonic() + CLOSE_S
        while self._failure is None and not self._rank.box.finished and time.monotonic() < deadline:
            self._rank.box.wait(POLL_S)
        self._stop()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _start(self) -> Supervisor:
        if self._local:
            check_limits(self._plan, tuple(range(len(self._plan.hosts))))
        request = self._prepare_children() if self._local else self._request
        start = RankStart.of(request, self._plan, {})
        if start.rank != 0:
            name = rank_name(self._plan, start.rank)
            raise UserError(f"this machine is {name}: a Pipeline runs on rank 0, the data host")
        start.check()
        lacking = start.lacking()
        use_one_arena()
        request_kill = self._children.kill if self._children is not None else lambda request: None
        self._rank = runner = run_supervisor(start, lacking, self._ends, request_kill)
        if self._children is not None:
            self._start_children(self._children)
        runner.start()
        self._supervisor = threading.Thread(
            target=supervised, args=(runner, 0), kwargs={"started": True}, name="supervise", daemon=True
        )
        self._supervisor.start()
        return runner

    def _ends(self, plan: Plan) -> Ends:
        if self._texts is not None:
            return self._texts.ends(plan)
        from edgelaunch.pipeline.feed import StreamEnds

        source = Source(items=self._streams.items(), num_items=None, what="an application's items")
        return StreamEnds(plan, source, _Results(self))

    def _close_calls(self) -> None:
        self._streams.close()
        if self._texts is not None:
            self._texts.close()

    def _prepare_children(self) -> RunRequest:
        """Begins what all ranks but 0 are forked from, and returns the request of that one."""
        listener = listen_on_loopback()
        place = OnLoopback(self._plan, listener.getsockname()[1])
        self._children = Children(self._plan, self._request, place, restarts=self._restarts)
        if len(self._plan.hosts) > 1:
            self._children.begin_spare()
        return request_of_rank(self._request, 0, place.settings(0), listen_fd=listener.detach())

    def _start_children(self, children: Children) -> None:
        """Once this process has imported torch: the one that they are forked from has meanwhile, too."""
        for rank in range(1, len(self._plan.hosts)):
            children.start(rank)
        threading.Thread(target=self._watch_children, args=(children,), name="children", daemon=True).start()

    @property
    def _failure(self) -> Failure | None:
        """Of this process's rank."""
        box = self._rank.box if self._rank is not None else None
        return box.failure if box is not None and not box.finished else None

    def _watch_children(self, children: Children) -> None:
        """Starts a rank that was killed or lost again, also while the application does something else."""
        while not self._closed and children.first_failure() is None:
            time.sleep(POLL_S)

    def _check(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError("the pipeline belongs to the process that this one was forked from: make another here")
        failure = self._failure
        if self._children is not None and not self._closed:
            failure = self._children.first_failure() or failure
        if failure is not None:
            words = failure_words(self._plan, failure)
            raise RankFailedError(words + (f"\n{failure.trace}" if failure.trace else ""))
        if self._closed:
            raise RuntimeError("the pipeline is closed")
        if self._rank is None:
            raise RuntimeError("the pipeline has not been started: use it in a with statement")

    def _stop(self) -> None:
        self._closed = True
        atexit.unregister(self.close)
        self._close_calls()
        if self._rank is not None:
            self._rank.abandon()
        if self._supervisor is not None:
            self._supervisor.join(JOIN_S)
            await_at_exit(self._supervisor)  # ended by the interpreter inside the store's C++, it would end the process
        if self._children is not None:
            well = self._failure is None and self._rank is not None and self._rank.box.finished
            self._children.end(CLOSE_S if well else 0.0)

    def _arrays(self, value: Any, index: int) -> dict[str, Any]:
        names = [spec.name for spec in self._plan.inputs]
        if not isinstance(value, Mapping):
            if len(names) > 1:
                raise UserError(f"item {index}: the model takes {', '.join(names)}: give a dict by these names")
            value = {names[0]: value}
        if set(value) != set(names):
            raise UserError(f"item {index}: has {', '.join(map(str, value))}, the model takes {', '.join(names)}")
        where, ranges = f"item {index}", self._varying.ranges
        arrays = {spec.name: fit(value[spec.name], spec, where, ranges) for spec in self._plan.inputs}
        self._varying.check(arrays, where)
        return arrays

    def _give(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        arrays = {name: np.array(as_numpy(tensor)) for name, tensor in outputs.items()}
        self._streams.give(entry.stream, arrays if len(arrays) > 1 else next(iter(arrays.values())))


class _Results:
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        self._pipeline._give(entry, outputs)

    def finish(self) -> None:
        pass
