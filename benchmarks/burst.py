"""The data host of a pipeline that lives on between bursts: `python burst.py PLAN ADDRESS:PORT`.

Reads how many microbatches to send, a burst a line, and prints a line of JSON for each: the seconds from its start at
which each microbatch came out. Ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgecompile.execution.allocator import restart_with_heap_environment
from edgelaunch import Pipeline


def items(pipeline: Pipeline, count: int) -> Iterator[Any]:
    """The same item again and again."""
    generator = np.random.default_rng(0)
    item: dict[str, Any] = {}
    for spec in pipeline.plan.inputs:
        shape = spec.shape[1:]
        floating = spec.dtype.startswith("float")
        item[spec.name] = generator.standard_normal(shape, np.float32) if floating else np.ones(shape, spec.dtype)
    for _ in range(count):
        yield item


def burst(pipeline: Pipeline, num_microbatches: int) -> list[float]:
    size = pipeline.plan.model.microbatch
    begin = time.perf_counter()
    seen = [time.perf_counter() - begin for _ in pipeline.stream(items(pipeline, num_microbatches * size))]
    return seen[size - 1 :: size]


def main(plan: str, master: str) -> int:
    os.environ.pop("RANK", None)
    with Pipeline(plan, master=master) as pipeline:
        print(json.dumps([]), flush=True)
        for line in sys.stdin:
            print(json.dumps(burst(pipeline, int(line))), flush=True)
    return 0


if __name__ == "__main__":
    restart_with_heap_environment()
    sys.exit(main(*sys.argv[1:]))
