"""The data host of a language model's pipeline that lives on: `python text_burst.py PLAN ADDRESS:PORT`.

Reads a line of JSON for each burst, `{"prompts": [LENGTH...], "tokens": N}`, and prints one: for each answer the
seconds from the burst's begin to each of its tokens. Ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence

from edgecompile.execution.allocator import restart_with_heap_environment
from edgelaunch import Pipeline
from edgelaunch.generation.text_calls import TextOptions


class Stamped(list[int]):
    """An answer's tokens; knows when each came."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def append(self, token: int) -> None:
        self.seen.append(time.perf_counter())
        super().append(token)


def burst(pipeline: Pipeline, lengths: Sequence[int], tokens: int) -> list[list[float]]:
    """All prompts are asked at once."""
    generation = pipeline.plan.generation
    assert generation is not None
    calls, options = pipeline._text_calls("benchmark"), TextOptions(max_tokens=tokens, ignore_end=True)
    most = generation.vocabulary - 100
    requests = [
        calls.request([(7919 * place + 31 * number) % most + 50 for place in range(length)], options)
        for number, length in enumerate(lengths)
    ]
    answers, stamps, begin = [], [], time.perf_counter()
    for request in requests:
        answer, stamped = calls.ask(request), Stamped()
        answer.tokens = stamped  # long before its first token
        answers.append(answer)
        stamps.append(stamped)
    for answer in answers:
        answer.wait()
    return [[seen - begin for seen in stamped.seen] for stamped in stamps]


def main(plan: str, master: str) -> int:
    os.environ.pop("RANK", None)
    with Pipeline(plan, master=master) as pipeline:
        print(json.dumps([]), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(burst(pipeline, asked["prompts"], asked["tokens"])), flush=True)
    return 0


if __name__ == "__main__":
    restart_with_heap_environment()
    sys.exit(main(*sys.argv[1:]))
