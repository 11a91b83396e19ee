"""A separate process at one end of a link: sends or receives messages as ranks do, and reports the cost.

    python -m edgecompile.measure.machine_costs.peer RANK PORT THREADS MODULE SIZE...

Rank 0 sends and owns the store, rank 1 receives. A message is a small first piece and pieces of 1 MB, each a gloo
operation of a thread beside the one that computes; receives are posted ahead. Both compute between two messages, as
stages do: what moves messages then finds nothing of itself in the caches, and takes several times as long as in a row.
Prints one JSON object: for each size the CPU seconds of a message, and the anonymous memory of a process that has all
that a rank has but its shard.
"""

from __future__ import annotations

import json
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401 - a rank has it in memory
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from edgecompile.execution import torchscript
from edgecompile.execution.allocator import keep_freed_memory, use_one_arena
from edgecompile.execution.message_layout import NUM_BUFFERS_IN, pieces
from edgecompile.execution.torchscript import plain_execution

_MOST_BYTES = 64 << 20
_MOST_MESSAGES = 40
_NUM_ALONE = 10
_ROUNDS = 9
_LEAST_S = 1e-6
_TIMEOUT = timedelta(seconds=600)


def main() -> int:
    rank, port, threads = (int(word) for word in sys.argv[1:4])
    module, sizes = sys.argv[4], [int(word) for word in sys.argv[5:]]
    use_one_arena()
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    store = TCPStore("127.0.0.1", port, None, rank == 0, _TIMEOUT, False)
    gloo: Any = dist.ProcessGroupGloo  # torch's stubs leave out most of it
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname="127.0.0.1")]
    options._timeout = _TIMEOUT
    options._threads = 2
    group = gloo(PrefixStore("peer", store), rank, 2, options)
    keep_freed_memory()
    _exchange(group, rank, min(sizes), _NUM_ALONE, lambda: 0.0)
    runtime_bytes = _runtime_bytes(module)  # before large buffers, which the plan counts for itself
    computation = _Computation()
    rounds = [[_message(group, rank, size, computation) for size in sizes] for _ in range(_ROUNDS)]
    cpu_s = [_cost_s(found) for found in zip(*rounds, strict=True)]
    print(json.dumps({"cpu_s": cpu_s, "runtime_bytes": runtime_bytes}), flush=True)
    group.barrier().wait(_TIMEOUT)
    return 0


class _Computation:
    """A layer whose weights fill the caches of a core."""

    def __init__(self) -> None:
        self._weights = torch.ones(1024, 2048)
        self._input = torch.ones(32, 1024)

    def run(self) -> None:
        torch.mm(self._input, self._weights)

    def cpu_s(self) -> float:
        """Of one run, without what other threads do meanwhile."""
        begin_s = time.thread_time()
        self.run()
        return time.thread_time() - begin_s


class _Link:
    """Buffers that go round between the thread that computes and one that moves them."""

    def __init__(self, group: Any, rank: int, num_bytes: int) -> None:
        self._group, self._rank = group, rank
        buffers = [torch.zeros(num_bytes, dtype=torch.uint8) for _ in range(NUM_BUFFERS_IN)]
        self._pieces = [[buffer[begin:end] for begin, end in pieces(num_bytes)] for buffer in buffers]
        self.ready: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Numbers of buffers: free ones to be sent, or filled ones."""
        self._posted: queue.SimpleQueue[tuple[int, list[Any]]] = queue.SimpleQueue()

    def pass_on(self, number: int) -> None:
        """To be sent, or to be received into."""
        self._posted.put((number, [] if self._rank == 0 else self._begin(number)))

    def run(self, count: int) -> threading.Thread:
        """Moves so many messages."""
        for number in range(NUM_BUFFERS_IN):
            self.ready.put(number) if self._rank == 0 else self.pass_on(number)
        thread = threading.Thread(target=self._move, args=(count,), daemon=True)
        thread.start()
        return thread

    def _move(self, count: int) -> None:
        for _ in range(count):
            number, works = self._posted.get()
            for work in works or self._begin(number):
                work.wait(_TIMEOUT)
            self.ready.put(number)

    def _begin(self, number: int) -> list[Any]:
        operation = self._group.send if self._rank == 0 else self._group.recv
        return [operation([piece], 1 - self._rank, tag) for tag, piece in enumerate(self._pieces[number])]


@dataclass(frozen=True)
class _Found:
    """CPU seconds for a message of one size, in one round."""

    moving_s: float
    """Of all threads, without the computation."""
    slower_s: float
    """By which the computation takes longer, since messages were moved through the caches."""


def _cost_s(rounds: Sequence[_Found]) -> float:
    """Of one message. Each part is a median of its own: the computation is ten times as long as a small message's
    handling, so that its noise would hide that in a difference of sums."""
    slower_s = statistics.median(found.slower_s for found in rounds)
    return max(_LEAST_S, statistics.median(found.moving_s for found in rounds) + max(0.0, slower_s))


def _message(group: Any, rank: int, num_bytes: int, computation: _Computation) -> _Found:
    count = max(8, min(_MOST_MESSAGES, _MOST_BYTES // num_bytes))
    group.barrier().wait(_TIMEOUT)
    alone_s = [computation.cpu_s() for _ in range(_NUM_ALONE)]
    group.barrier().wait(_TIMEOUT)
    all_s, computing_s = _exchange(group, rank, num_bytes, count, computation.cpu_s)
    group.barrier().wait(_TIMEOUT)
    alone_s += [computation.cpu_s() for _ in range(_NUM_ALONE)]
    return _Found(
        moving_s=(all_s - sum(computing_s)) / count,
        slower_s=statistics.median(computing_s) - statistics.median(alone_s),
    )


def _exchange(
    group: Any, rank: int, num_bytes: int, count: int, compute: Callable[[], float]
) -> tuple[float, list[float]]:
    """CPU seconds of this process for so many messages with a computation before each, and of the computations."""
    link = _Link(group, rank, num_bytes)
    thread = link.run(count)
    begin_s, computing_s = time.process_time(), []
    for number in range(count):
        buffer = link.ready.get()
        computing_s.append(compute())
        if rank == 0 or number < count - NUM_BUFFERS_IN:  # no receive is left over
            link.pass_on(buffer)
    thread.join()
    return time.process_time() - begin_s, computing_s


def _runtime_bytes(path: str) -> int:
    """Anonymous memory of this process, with a TorchScript module run as ranks do; 0 where the system does not tell."""
    module = torchscript.load(path)
    with torch.inference_mode(), plain_execution():
        for _ in range(3):
            module(torch.zeros(8, 64))
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    kilobytes = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(kilobytes[0]) * 1024 if kilobytes else 0


if __name__ == "__main__":
    sys.exit(main())
