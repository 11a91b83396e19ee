"""edgecompile as a contender of generate.py: a plan of text whose ranks are all processes of this machine.

python text_contender.py PLAN [CORE]        # CORE: the only one that it may use
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from text_turns import Turn, prompt_of, take_turns

import edgelaunch
from edgelaunch.generation.answers import Answer
from edgelaunch.generation.text_calls import TextOptions


def steady(answers: Sequence[Answer]) -> float:
    """Tokens a second of all together, from when each has its first until one has its last."""
    while not all(answer.first_ns for answer in answers):
        time.sleep(0.002)
    begin, before = time.perf_counter(), sum(len(answer.tokens) for answer in answers)
    while not any(answer.done for answer in answers):
        time.sleep(0.002)
    end, after = time.perf_counter(), sum(len(answer.tokens) for answer in answers)
    for answer in answers:
        answer.wait()
    return (after - before) / (end - begin)


def main() -> int:
    if len(sys.argv) > 2:
        os.sched_setaffinity(0, {int(sys.argv[2])})
    with edgelaunch.Pipeline(Path(sys.argv[1]), local=True) as pipeline:
        calls = pipeline._text_calls("benchmark")

        def run(turn: Turn) -> float:
            options = TextOptions(max_tokens=max(1, turn.tokens), ignore_end=True)
            answers = [
                calls.ask(calls.request(prompt_of(turn.prompt, number), options)) for number in range(turn.streams)
            ]
            if turn.tokens:
                return steady(answers)
            for answer in answers:
                answer.wait()
            (answer,) = answers
            return turn.prompt / ((answer.first_ns - answer.begun_ns) / 1e9)

        take_turns(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
