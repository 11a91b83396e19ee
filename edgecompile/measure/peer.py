"""One end of a link, in a process of its own: sends or receives messages as ranks do and tells what that took.

    python -m edgecompile.measure.peer RANK PORT THREADS MODULE SIZE...

Rank 0 sends and owns the store, rank 1 receives. A message is a small first piece and pieces of 1 MB, each a gloo
operation; receives are posted ahead. Prints one JSON object: for each size the CPU seconds of a message, and the
anonymous memory of a process that has all that a rank has but its shard.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401 - a rank has it in memory
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from edgecompile.measure.allocator import keep_freed_memory, use_one_arena

_FIRST_PIECE_BYTES = 64 << 10
_PIECE_BYTES = 1 << 20
_NUM_BUFFERS = 2
_MOST_BYTES = 64 << 20
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
    _messages(group, rank, min(sizes))
    runtime_bytes = _runtime_bytes(module)  # before large buffers, which the plan counts for itself
    cpu_s = [_messages(group, rank, size) for size in sizes]
    print(json.dumps({"cpu_s": cpu_s, "runtime_bytes": runtime_bytes}), flush=True)
    group.barrier().wait(_TIMEOUT)
    return 0


def _messages(group: Any, rank: int, num_bytes: int) -> float:
    """CPU seconds of this process for one message of this size."""
    first = min(num_bytes, _FIRST_PIECE_BYTES)
    bounds = [0, *range(first, num_bytes, _PIECE_BYTES), num_bytes]
    count = max(8, min(100, _MOST_BYTES // num_bytes))
    buffers = [torch.zeros(num_bytes, dtype=torch.uint8) for _ in range(_NUM_BUFFERS)]
    pieces = [[buffer[begin:end] for begin, end in itertools.pairwise(bounds) if end > begin] for buffer in buffers]
    operation = group.send if rank == 0 else group.recv
    begin_s = 0.0
    posted: list[list[Any]] = []
    for number in range(count + _NUM_BUFFERS):
        if number == _NUM_BUFFERS:
            begin_s = time.process_time()
        if len(posted) == _NUM_BUFFERS:
            for work in posted.pop(0):
                work.wait(_TIMEOUT)
        posted.append([operation([piece], 1 - rank, tag) for tag, piece in enumerate(pieces[number % _NUM_BUFFERS])])
    for works in posted:
        for work in works:
            work.wait(_TIMEOUT)
    took_s = time.process_time() - begin_s
    group.barrier().wait(_TIMEOUT)
    return took_s / count


def _runtime_bytes(path: str) -> int:
    """Anonymous memory of this process, with a TorchScript module run as ranks do; 0 where the system does not tell."""
    module = torch.jit.load(path)  # type: ignore[no-untyped-call]
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        for _ in range(3):
            module(torch.zeros(8, 64))
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    kilobytes = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(kilobytes[0]) * 1024 if kilobytes else 0


if __name__ == "__main__":
    sys.exit(main())
