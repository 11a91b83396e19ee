"""A pipeline inside an application: `with edgelaunch.Pipeline(plan, local=True) as p: for y in p.stream(items): ...`"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgecompile.plan import Plan, UserError, file_sha256, read_plan
from edgelaunch.allocator import use_one_arena
from edgelaunch.failures import Failure, RankFailedError, rank_name
from edgelaunch.identity import Endpoint, choose_rank, find_endpoint
from edgelaunch.inputs import fit
from edgelaunch.items import FLUSH, Entry, Flush, Item, Source
from edgelaunch.left_behind import await_at_exit
from edgelaunch.local import Children, OnLoopback, listen_on_loopback, local_threads
from edgelaunch.outputs import as_numpy
from edgelaunch.shards import check_rank

__all__ = ["Pipeline"]

POLL_S = 0.1
JOIN_S = 2.0
CLOSE_S = 10.0


class _Done:
    """The mark after a stream's last result."""


_DONE = _Done()


class _Job:
    """One call of `stream`: its items on their way in, its results on their way out."""

    def __init__(self, number: int, items: Iterable[Any], capacity: int) -> None:
        self.number, self.items = number, items
        self.results: queue.Queue[Any] = queue.Queue(capacity)
        self.error: BaseException | None = None
        """What the caller's iterable raised, or an item that does not fit."""
        self.cancelled = False
        self._lock = threading.Lock()
        self._fed = self._returned = 0
        self._all_fed = False

    def fed(self) -> None:
        with self._lock:
            self._fed += 1

    def end_feeding(self, error: BaseException | None) -> None:
        with self._lock:
            self.error, self._all_fed = error, True
            done = self.complete
        if done:
            self._put(_DONE)

    def give(self, result: Any) -> None:
        self._put(result)
        with self._lock:
            self._returned += 1
            done = self.complete
        if done:
            self._put(_DONE)

    @property
    def complete(self) -> bool:
        return self._all_fed and self._returned == self._fed

    def _put(self, result: Any) -> None:
        while not self.cancelled:
            try:
                self.results.put(result, timeout=POLL_S)
                return
            except queue.Full:
                continue


class Pipeline:
    """A running pipeline whose data host is this process.

    Args:
        plan: path of plan.yaml.
        local: start the other ranks on this machine, all on the CPU. Otherwise `edgelaunch PLAN` runs on their hosts,
            and this process is the plan's rank 0.
        master: ADDRESS:PORT to listen at, else as the plan says.
        secret_file: holds the secret that the ranks share, else $EDGELAUNCH_SECRET; not needed on one machine.

    Raises:
        UserError: the plan or a file of it does not do.
        RankFailedError: from any method, once a rank has failed; names the rank.
    """

    def __init__(
        self, plan: str | Path, *, local: bool = False, master: str | None = None, secret_file: str | None = None
    ) -> None:
        self._path = Path(plan)
        self._plan = read_plan(self._path)
        self._folder = self._path.resolve().parent
        self._local, self._master, self._secret_file = local, master, secret_file
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._by_stream: dict[str, _Job] = {}
        self._num_jobs = 0
        self._failure: Failure | None = None
        self._children: Children | None = None
        self._rank: Any = None
        self._supervisor: threading.Thread | None = None
        self._closed = False

    @property
    def plan(self) -> Plan:
        return self._plan

    def __enter__(self) -> Pipeline:
        try:
            self._start()
            while not self._rank.streaming.wait(POLL_S):
                self._check()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stream(self, items: Iterable[Any]) -> Iterator[Any]:
        """Results in the items' order, while later items are still on their way.

        Args:
            items: arrays without batch dimension, or a mapping from input name to array where the model has several
                inputs. Drawn from another thread, and only as fast as the pipeline takes them.

        Yields:
            An array, or a dict by output name where the model has several; bfloat16 comes as float32.

        Raises:
            UserError: an item does not fit the model's inputs.
            RankFailedError: a rank failed; names it.
        """
        self._check()
        job = _Job(self._num_jobs, items, 2 * self._plan.model.microbatch)
        self._num_jobs += 1
        self._by_stream[str(job.number)] = job
        self._jobs.put(job)
        try:
            while (result := self._take(job)) is not _DONE:
                yield result
            if job.error is not None:
                raise job.error
        finally:
            job.cancelled = True

    def __call__(self, batch: Any) -> Any:
        """A batch of any size, (N, ...) for each input, to results (N, ...) for each output."""
        if isinstance(batch, Mapping):
            count = len(next(iter(batch.values())))
            rows: Iterable[Any] = ({name: array[index] for name, array in batch.items()} for index in range(count))
        else:
            rows = batch
        results = list(self.stream(rows))
        if not results:
            raise UserError("the batch is empty")
        if isinstance(results[0], dict):
            return {name: np.stack([result[name] for result in results]) for name in results[0]}
        return np.stack(results)

    def close(self) -> None:
        """Lets what is under way come out, and ends every rank."""
        if self._closed:
            return
        for job in list(self._by_stream.values()):
            job.cancelled = True
        self._jobs.put(None)
        deadline = time.monotonic() + CLOSE_S
        while self._failure is None and not self._rank.box.finished and time.monotonic() < deadline:
            self._rank.box.wait(POLL_S)
        self._stop()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        endpoint = self._start_children() if self._local else self._own_endpoint()
        check_rank(self._plan, 0, self._folder)
        from edgelaunch.rank import RankOptions
        from edgelaunch.secret import find_secret
        from edgelaunch.supervise import Supervisor

        host = self._plan.hosts[0]
        num_here = len(self._plan.hosts) if self._local else 1
        options = RankOptions(
            plan=self._plan, folder=self._folder, plan_sha256=file_sha256(self._path), rank=0, endpoint=endpoint,
            threads=local_threads(self._plan, 0, num_here), device="cpu" if self._local else host.execution,
            log=lambda text: None,
            secret=find_secret(self._plan, endpoint.address, self._secret_file, os.environ),
        )  # fmt: skip
        source = Source(items=self._items(), num_items=None, what="an application's items")
        use_one_arena()
        lost = self._children.kill if self._children is not None else lambda rank, process: None
        self._rank = Supervisor(options, source, _Results(self), lost)
        self._rank.start()
        self._supervisor = threading.Thread(target=self._supervise, name="supervise", daemon=True)
        self._supervisor.start()

    def _own_endpoint(self) -> Endpoint:
        rank = choose_rank(self._plan, None, {}) if self._master is None else 0
        if rank != 0:
            raise UserError(f"this machine is {rank_name(self._plan, rank)}: a Pipeline runs on rank 0, the data host")
        return find_endpoint(self._plan, self._master, {})

    def _start_children(self) -> Endpoint:
        listener = listen_on_loopback()
        port = listener.getsockname()[1]
        self._children = Children(self._plan, self._path, OnLoopback(self._plan, port))
        for rank in range(1, len(self._plan.hosts)):
            self._children.start(rank, ["--quiet"])
        threading.Thread(target=self._watch_children, args=(self._children,), name="children", daemon=True).start()
        return Endpoint(address="127.0.0.1", port=port, listen_fd=listener.detach())

    def _supervise(self) -> None:
        failure = self._rank.wait()
        if failure is not None:
            self._failure = failure
            self._rank.tell(failure)

    def _watch_children(self, children: Children) -> None:
        """Starts a rank that was killed or lost again, also while the application does something else."""
        while not self._closed and children.first_failure() is None:
            time.sleep(POLL_S)

    def _check(self) -> None:
        failure = self._failure
        if self._children is not None and not self._closed:
            failure = self._children.first_failure() or failure
        if failure is not None:
            name = rank_name(self._plan, failure.rank)
            named = f"rank {failure.rank} (" in failure.message
            message = failure.message if named else f"{name}: {failure.message}"
            raise RankFailedError(message + (f"\n{failure.trace}" if failure.trace else ""))
        if self._closed:
            raise RuntimeError("the pipeline is closed")
        if self._rank is None:
            raise RuntimeError("the pipeline has not been started: use it in a with statement")

    def _stop(self) -> None:
        self._closed = True
        self._jobs.put(None)
        if self._rank is not None:
            self._rank.abandon()
        if self._supervisor is not None:
            self._supervisor.join(JOIN_S)
            await_at_exit(self._supervisor)  # ended by the interpreter inside the store's C++, it would end the process
        if self._children is not None:
            well = self._failure is None and self._rank is not None and self._rank.box.finished
            self._children.end(CLOSE_S if well else 0.0)

    def _take(self, job: _Job) -> Any:
        while True:
            try:
                return job.results.get(timeout=POLL_S)
            except queue.Empty:
                self._check()

    def _items(self) -> Iterator[Item | Flush]:
        """In the feeder's thread: the items of one job after the other."""
        while (job := self._jobs.get()) is not None:
            error: BaseException | None = None
            try:
                for index, value in enumerate(job.items):
                    if job.cancelled:
                        break
                    item = Item(Entry(index=index, stream=str(job.number)), self._arrays(value, index))
                    job.fed()
                    yield item
            except Exception as raised:  # the caller's iterable may raise anything, and the caller is who must get it
                error = raised
            yield FLUSH
            job.end_feeding(error)
            self._forget(job)

    def _arrays(self, value: Any, index: int) -> dict[str, Any]:
        names = [spec.name for spec in self._plan.inputs]
        if not isinstance(value, Mapping):
            if len(names) > 1:
                raise UserError(f"item {index}: the model takes {', '.join(names)}: give a dict by these names")
            value = {names[0]: value}
        if set(value) != set(names):
            raise UserError(f"item {index}: has {', '.join(map(str, value))}, the model takes {', '.join(names)}")
        return {spec.name: fit(value[spec.name], spec, f"item {index}") for spec in self._plan.inputs}

    def _give(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        job = self._by_stream[entry.stream]
        arrays = {name: np.array(as_numpy(tensor)) for name, tensor in outputs.items()}
        job.give(arrays if len(arrays) > 1 else next(iter(arrays.values())))
        self._forget(job)

    def _forget(self, job: _Job) -> None:
        if job.complete:
            self._by_stream.pop(str(job.number), None)


class _Results:
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        self._pipeline._give(entry, outputs)

    def finish(self) -> None:
        pass
