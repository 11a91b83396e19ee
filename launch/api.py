"""The Python API: `with edgelaunch.Pipeline(plan, local=True) as p: for y in p.stream(items): ...`"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.application.deadlines import Deadline
from edgelaunch.application.running import Running
from edgelaunch.application.statistics import Event, Statistics
from edgelaunch.application.streaming import results_of, results_of_async
from edgelaunch.common.addresses import read_address
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.start_request import DEFAULT_RESTARTS

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgelaunch.generation.text_calls import Completion, Prompt, TextCalls

__all__ = ["Event", "Pipeline", "Statistics"]

Array = npt.NDArray[Any]
Item: TypeAlias = "Array | Mapping[str, Array] | str | Image"
"""An array without batch dimension, an array by input name, a sentence or an image where the plan takes such."""
Result = Array | dict[str, Array]
"""An array, or a dict by output name where the model has several."""


class Pipeline:
    """A running pipeline whose data host is this process.

    Any number of threads and tasks may call at once: their items share the microbatches, and none waits for another's
    items. Where a rank is lost, calls wait until the pipeline continues, and nothing is lost.

    Args:
        plan: path of plan.yaml.
        local: start the other ranks on this machine, all on the CPU. Otherwise `edgelaunch PLAN` runs on their hosts,
            and this process is the plan's rank 0.
        master: ADDRESS:PORT to listen at, else as the plan says.
        secret_file: holds the secret that the ranks share, else $EDGELAUNCH_SECRET; not needed on one machine.
        restarts: with `local`, how often each of the other ranks is started again after it was killed or lost.

    Raises:
        UserError: the plan or one of its files is invalid; from any method whose `timeout` is not a number.
        RankFailedError: from any method, once a rank has failed; names the rank.
        TimeoutError: from any method with a `timeout`, in seconds; what has no result by then is cancelled.
    """

    def __init__(
        self, plan: str | os.PathLike[str], *, local: bool = False, master: str | None = None,
        secret_file: str | None = None, restarts: int = DEFAULT_RESTARTS,
    ) -> None:  # fmt: skip
        request = RunRequest(
            plan_path=Path(plan), quiet=True, secret_file=Path(secret_file) if secret_file is not None else None,
            rank=None if master is None else 0,
            master=read_address("--master", master) if master is not None else None,
        )  # fmt: skip
        if type(restarts) is not int or restarts < 0:
            raise UserError(f"invalid value {restarts!r} for restarts: expected a whole number of 0 or more")
        self._running = Running(request, local=local, restarts=restarts)

    @property
    def plan(self) -> Plan:
        return self._running.plan

    @property
    def ready(self) -> bool:
        """Whether items flow: False while the ranks connect, at the start and after a loss, and once it is closed."""
        return self._running.ready

    @property
    def statistics(self) -> Statistics:
        """Items, rates, what is in flight, beside what the plan predicts."""
        return self._running.statistics()

    @property
    def events(self) -> tuple[Event, ...]:
        """Losses, rejoins and epochs, oldest first."""
        return self._running.events()

    def __enter__(self) -> Pipeline:
        if self._running.started or self._running.closed:
            raise RuntimeError("the pipeline was started before: make another Pipeline for another with statement")
        atexit.register(self.close)  # one that the application forgets would abort the interpreter at its end
        try:
            self._running.start()
        except BaseException:
            atexit.unregister(self.close)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets what is under way come out, and ends every rank; a pipeline that was never started has none."""
        self._running.close()
        if self._running.closed:
            atexit.unregister(self.close)

    # --- items -------------------------------------------------------------------------------------------------------

    def stream(self, items: Iterable[Item], *, timeout: float | None = None) -> Iterator[Result]:
        """Results in the items' order, while later items are still on their way.

        Args:
            items: drawn from a thread of the stream's own, and only as fast as its results are taken.
            timeout: for the whole stream, from its first result's request on.

        Yields:
            An array, or a dict by output name where the model has several; bfloat16 comes as float32.

        Raises:
            UserError: an item does not fit the model's inputs.
            RankFailedError: a rank failed; names it.
            RuntimeError: the pipeline is not in its with statement.
        """
        self._check_items("stream", items)
        deadline = Deadline(timeout, self._running.check)
        yield from results_of(self._running.streams.open(items), self._running, deadline)

    def map(self, items: Iterable[Item], timeout: float | None = None) -> Iterator[Result]:
        """As stream, but begins at once: `timeout` counts from this call on, as that of an Executor's map."""
        self._check_items("map", items)
        deadline = Deadline(timeout, self._running.check)
        stream = self._running.streams.open(items)
        results = results_of(stream, self._running, deadline)
        # a generator that nobody has begun does nothing when it goes
        weakref.finalize(results, stream.cancel).atexit = False
        return results

    def submit(self, item: Item) -> Future[Result]:
        """One item; its result is the future's. Cancelling the future frees the item's place.

        Raises:
            UserError: the item does not fit the model's inputs; or as `stream`.
        """
        self._check_no_text("submit")
        return self._running.submit(item)

    async def astream(
        self, items: Iterable[Item] | AsyncIterable[Item], *, timeout: float | None = None
    ) -> AsyncIterator[Result]:
        """As stream, for `async for`; a `timeout` is for each result. Whoever stops cancels what is under way."""
        if not isinstance(items, AsyncIterable):
            self._check_items("astream", items)
        else:
            self._check_no_text("astream")
        async for result in results_of_async(self._running, items, timeout):
            yield result

    def __call__(
        self, batch: Array | Mapping[str, Array] | Sequence[str] | Sequence[Image], *, timeout: float | None = None
    ) -> Result:
        """A batch of any size to results (N, ...) for each output.

        Args:
            batch: (N, ...) for each input, or a list of sentences or images, which are prepared as the plan says.

        Raises:
            UserError: the batch is empty, lacks an input, or its inputs differ in length; or as `stream`.
        """
        self._check_no_text("pipeline(batch)")
        results = list(self.stream(self._rows(batch), timeout=timeout))
        first = results[0]
        if isinstance(first, dict):
            return {name: _stacked([result[name] for result in results], name) for name in first}
        return _stacked(results, "the output")

    def _rows(self, batch: Any) -> Iterable[Any]:
        """The items of a batch, which has one or more."""
        if isinstance(batch, (list, tuple)) and batch and all(map(self._running.items.is_whole, batch)):
            return batch
        names = [spec.name for spec in self.plan.inputs]
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

    def _check_items(self, name: str, items: Any) -> None:
        self._check_no_text(name)
        if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
            raise UserError(
                f"invalid items of type {type(items).__name__}: expected a sequence or an iterator of items, each an "
                "array or a dict by input name"
            )

    def _check_no_text(self, name: str) -> None:
        self._running.check()
        if self._running.texts is not None:
            raise UserError(f"{name}: {self.plan.model.name} generates text: call generate()")

    # --- text --------------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Prompt], *, timeout: float | None = None, **options: Any) -> list[Completion]:
        """Answers to prompts, in their order, of a plan that generates text.

        Args:
            prompts: each a text to be continued, a list of token ids, or a conversation: a list of {role, content}.
            options: the fields of TextOptions: max_tokens, temperature, top_k, top_p, repetition_penalty, seed, stop.

        Raises:
            UserError: the plan generates no text, or a prompt or an option is not allowed.
            RankFailedError: a rank failed; names it.
        """
        calls = self._text_calls("generate")
        return calls.generate(prompts, options, Deadline(timeout, self._running.check).check)

    def generate_stream(self, prompt: Prompt, **options: Any) -> Iterator[str]:
        """As generate, of one prompt: its text as it comes. Whoever stops reading frees its place."""
        return self._text_calls("generate_stream").stream(prompt, options)

    def generate_async(self, prompt: Prompt, **options: Any) -> AsyncIterator[str]:
        """As generate_stream, for `async for`."""
        return self._text_calls("generate_async").stream_async(prompt, options)

    def _text_calls(self, name: str) -> TextCalls:
        self._running.check()
        if self._running.texts is None:
            raise UserError(f"{name}: {self.plan.model.name} generates no text: call stream()")
        return self._running.texts


def _stacked(results: Sequence[Any], what: str) -> Array:
    if len({result.shape for result in results}) > 1:
        raise UserError(f"{what} differs in shape from item to item: take the results of stream() or map()")
    return np.stack(results)
