"""Text for minutes: 32 clients at once, some of which go away, and ranks that are killed; every answer is compared.

    python benchmarks/text_soak.py                            # a tiny random Llama over 3 ranks: 10 minutes
    python benchmarks/text_soak.py --minutes 1 --kills 6      # a minute; kills a minute
    python benchmarks/text_soak.py --plan outputs/plan.yaml   # of any plan that generates text

A pool of requests, half of them sampled, is answered first by ranks that nobody disturbs, three times in other orders.
Then each client asks for one of them after the other. Every answer must be complete and the same token by token; of one
that its client left, what came until then. Pauses are times between two tokens: of all streams together, and of each.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from commands import compile_plan
from processes import figures, own_bytes, ranks_of

import edgelaunch
from edgecompile.contract.plan import Plan
from edgelaunch.generation.answers import Answer, TextRequest
from edgelaunch.generation.text_ends import TextEnds
from edgelaunch.generation.token_choice import Sampling

TARGET_PAUSE_S = 3.0
TARGET_GROWTH_BYTES = 4 << 20
CLIENTS, POOL = 32, 96
ROUNDS = 3
"""A draw may lie so near to the edge of a token that the last bits of the scores, which depend on the batch, decide."""
LOOK_S, MEMORY_EVERY_S = 0.002, 2.0
PATIENCE_S = 120.0
AFTER_KILL_S = 20.0
"""A pause that ends so soon after a kill is that kill's."""
TINY = ("num_hidden_layers=6", "hidden_size=64", "intermediate_size=128", "num_attention_heads=4",
        "num_key_value_heads=2", "vocab_size=512", "bos_token_id=0", "eos_token_id=1", "pad_token_id=1")  # fmt: skip


def tiny_plan(folder: Path, ranks: int) -> Path:
    """Of random weights, so large that texts vary; its answers end at a token now and then."""
    config = [f"model.build.config.{word}" for word in TINY]
    return compile_plan(
        folder, "model=smollm2_135m", *config, "+model.build.config.initializer_range=0.3", "generation.context=256",
        "generation.chunk=32", "generation.slots=4", "generation.prompt=64", "generation.tokens=64",
        f"hosts.count={ranks}", "devices.local.threads=1", "schedule=even",
    )  # fmt: skip


def pool_of(plan: Plan, random_: random.Random) -> list[TextRequest]:
    """Prompts of 1 token up to most of the context, every other one sampled with a seed of its own."""
    generation = plan.generation
    assert generation is not None
    found = []
    for number in range(POOL):
        length = random_.randint(1, min(generation.context * 3 // 4, 256))
        sampling = Sampling(temperature=0.9, top_p=0.95, repetition_penalty=1.1, seed=number) if number % 2 else None
        found.append(TextRequest(
            prompt=tuple(random_.randrange(2, generation.vocabulary) for _ in range(length)),
            max_tokens=random_.randint(1, 96), ignore_end=number % 4 > 1, sampling=sampling or Sampling(top_k=1),
        ))  # fmt: skip
    return found


@dataclass
class Told:
    """What the clients found."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    arrivals: list[tuple[float, float]] = field(default_factory=list)
    """Of every pause worth a look, in all streams together: when it ended, and seconds."""
    own: list[float] = field(default_factory=list)
    """The longest pause of each answer, between two of its tokens."""
    kills: list[float] = field(default_factory=list)
    memory: dict[str, list[tuple[float, int, int]]] = field(default_factory=dict)
    """By process: time, resident bytes, and those of its own."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Soak:
    """32 clients of one pipeline, and who looks at it."""

    def __init__(self, ends: TextEnds, pool: list[TextRequest], undisturbed: list[tuple[list[int], str]]) -> None:
        self._ends, self._pool, self._undisturbed = ends, pool, undisturbed
        self.told = Told()
        self.stopped = threading.Event()
        self._open: dict[int, Answer] = {}
        """Of each client."""

    def client(self, number: int, seed: int) -> None:
        """Asks, waits or goes away, and compares, until the time is over."""
        random_ = random.Random(seed)
        while not self.stopped.is_set():
            index = random_.randrange(len(self._pool))
            answer = self._ends.ask(self._pool[index])
            self._open[number] = answer
            leaves = random_.random() < 0.2
            patience_s = random_.uniform(0.0, 3.0) if leaves else PATIENCE_S
            deadline = time.monotonic() + patience_s
            while not answer.done and time.monotonic() < deadline:
                time.sleep(0.01)
            if not answer.done:
                self._ends.cancel(answer)
            self._compare(index, answer, leaves)

    def _compare(self, index: int, answer: Answer, leaves: bool) -> None:
        tokens, finish = self._undisturbed[index]
        found = list(answer.tokens)
        with self.told.lock:
            self.told.counts["rebuilt"] += answer.rebuilt
            self.told.counts["tokens"] += len(found)
            if answer.finish == "cancelled" and leaves:
                self.told.counts["left by their clients"] += 1
                same = found == tokens[: len(found)]
            else:
                self.told.counts["complete"] += 1
                same = (found, answer.finish) == (tokens, finish)
            if not same:
                self.told.wrong.append(
                    f"request {index}: {answer.finish} after {len(found)} tokens, undisturbed {finish} after "
                    f"{len(tokens)}; rebuilt {answer.rebuilt} times"
                )

    def watch(self) -> None:
        """Sees tokens come, as a client does."""
        seen: dict[int, tuple[Answer, int, float, float]] = {}
        last = time.monotonic()
        while not self.stopped.is_set():
            now, came = time.monotonic(), False
            for number, answer in list(self._open.items()):
                count = len(answer.tokens)
                before = seen.get(number)
                if before is None or before[0] is not answer:
                    if before is not None and before[3]:
                        self.told.own.append(before[3])
                    came, seen[number] = came or count > 0, (answer, count, now, 0.0)
                elif count > before[1]:
                    longest = max(before[3], now - before[2]) if before[1] else 0.0
                    came, seen[number] = True, (answer, count, now, longest)
            if came:
                if now - last > 10 * LOOK_S:
                    self.told.arrivals.append((now, now - last))
                last = now
            elif now - last > PATIENCE_S:
                self.told.wrong.append(f"no token for {PATIENCE_S:g} s")
                self.stopped.set()
            time.sleep(LOOK_S)

    def kill(self, every_s: float, random_: random.Random) -> None:
        """A random rank, at random moments."""
        while not self.stopped.wait(random_.uniform(0.5, 1.5) * every_s):
            ranks = ranks_of(os.getpid())
            if ranks:
                os.kill(random_.choice(list(ranks.values())), signal.SIGKILL)
                self.told.kills.append(time.monotonic())

    def weigh(self) -> None:
        while not self.stopped.wait(MEMORY_EVERY_S):
            for name, process in {0: os.getpid(), **ranks_of(os.getpid())}.items():
                seen, own = figures(process), own_bytes(process)
                if seen is not None and own is not None:
                    self.told.memory.setdefault(f"rank {name}", []).append((time.monotonic(), seen.resident_bytes, own))


def ends_of(pipeline: edgelaunch.Pipeline) -> TextEnds:
    ends = pipeline._text_calls("benchmark")._ends
    assert ends is not None
    return ends


def answers_of(ends: TextEnds, pool: list[TextRequest], random_: random.Random) -> list[tuple[list[int], str]]:
    """Tokens, and why each answer ended; asked for in a random order."""
    order = random_.sample(range(len(pool)), len(pool))
    asked = {number: ends.ask(pool[number]) for number in order}
    for answer in asked.values():
        answer.wait()
    return [(list(asked[number].tokens), str(asked[number].finish)) for number in range(len(pool))]


def soak(plan: Path, minutes: float, kills: float, seed: int) -> Told:
    random_ = random.Random(seed)
    with edgelaunch.Pipeline(plan, local=True) as pipeline:
        pool = pool_of(pipeline.plan, random_)
        found = [answers_of(ends_of(pipeline), pool, random_) for _ in range(ROUNDS)]
    steady = [number for number in range(len(pool)) if all(one[number] == found[0][number] for one in found)]
    pool, undisturbed = [pool[number] for number in steady], [found[0][number] for number in steady]
    print(f"undisturbed: {len(pool)} answers, {sum(len(tokens) for tokens, _ in undisturbed)} tokens; "
          f"{POOL - len(pool)} more that differ by what is computed beside them are left out", flush=True)  # fmt: skip
    with edgelaunch.Pipeline(plan, local=True, restarts=1_000_000) as pipeline:
        ends = ends_of(pipeline)
        run = Soak(ends, pool, undisturbed)
        clients = [threading.Thread(target=run.client, args=(number, seed * CLIENTS + number), daemon=True)
                   for number in range(CLIENTS)]  # fmt: skip
        others = [threading.Thread(target=work, daemon=True) for work in (run.watch, run.weigh)]
        if kills:
            others.append(threading.Thread(target=run.kill, args=(60 / kills, random_), daemon=True))
        for thread in (*clients, *others):
            thread.start()
        run.stopped.wait(minutes * 60)
        run.stopped.set()
        for thread in (*clients, *others):
            thread.join(2 * PATIENCE_S)
        if any(thread.is_alive() for thread in clients):
            run.told.wrong.append("a client still waits")
        if ends.num_in_flight():
            run.told.wrong.append(f"{ends.num_in_flight()} slots are taken, and nobody asks")
    return run.told


def grown(samples: list[tuple[float, int, int]]) -> tuple[float, float]:
    """MiB of the last quarter's largest size of its own, and how much more than the first quarter's that is."""
    quarter = max(1, len(samples) // 4)
    first, last = (max(size for _, _, size in part) / 2**20 for part in (samples[:quarter], samples[-quarter:]))
    return last, last - first


def report(told: Told) -> bool:
    """Prints what was found; returns whether all of it is as it must be."""
    print(", ".join(f"{count} {name}" for name, count in sorted(told.counts.items())))
    well = not told.wrong
    for text in told.wrong[:10]:
        print(f"WRONG: {text}")
    for name, samples in sorted(told.memory.items()):
        size, more = grown(samples)
        fits = more <= TARGET_GROWTH_BYTES / 2**20 or name != "rank 0"
        resident = max(resident for _, resident, _ in samples) / 2**20
        print(f"{name}: {size:.1f} MiB of its own in the last quarter, {more:+.2f} against the first; "
              f"{resident:.1f} resident at most{'' if fits else ': GROWS'}")  # fmt: skip
        well = well and fits
    if told.own:
        print(f"longest pause within an answer: median {statistics.median(told.own):.3f} s, "
              f"largest {max(told.own):.2f} s")  # fmt: skip
    pauses = [max((pause for end, pause in told.arrivals if 0 <= end - kill <= AFTER_KILL_S), default=0.0)
              for kill in told.kills]  # fmt: skip
    if pauses:
        met = max(pauses) < TARGET_PAUSE_S
        print(f"{len(pauses)} kills; no token at all for {statistics.median(pauses):.2f} s (median), {max(pauses):.2f} "
              f"s (largest); target < {TARGET_PAUSE_S:g} s: {'met' if met else 'MISSED'}")  # fmt: skip
        print("pauses", *(f"{pause:.2f}" for pause in pauses))
        well = well and met
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=float, default=2.0, help="a minute; 0: none")
    parser.add_argument("--ranks", type=int, default=3, help="of the tiny model")
    parser.add_argument("--plan", type=Path, help="another plan that generates text")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="text-soak-") as folder:
        plan = chosen.plan or tiny_plan(Path(folder), chosen.ranks)
        told = soak(plan, chosen.minutes, chosen.kills, chosen.seed)
        well = report(told)
    print("OK" if well else "FAILED")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
