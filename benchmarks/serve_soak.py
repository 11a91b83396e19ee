"""A service for minutes: 64 clients at once, and ranks that are killed; every answer is compared with its own value.

    python benchmarks/serve_soak.py                           # a small model over 3 local ranks: 10 minutes
    python benchmarks/serve_soak.py --minutes 3 --kills 4     # kills a minute, of random ranks other than 0

Each request has one to three items of its own, as .npy or as JSON; one in fifty is left by its client before the answer
comes. An answer other than 200 with the right numbers is wrong, whatever happens to the ranks. A pause is the time in
which no client at all gets an answer. Memory is what rank 0, which answers, holds of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from kills import TOLERANCE, compile_tiny, row
from processes import own_bytes, ranks_of
from serve import Service, answer, npy, request

CLIENTS, POOL = 64, 512
TARGET_PAUSE_S = 3.0
TARGET_GROWTH_BYTES = 4 << 20
WARM_S = 20.0
"""Until memory is looked at: what is reserved once is there by then."""
AFTER_KILL_S = 20.0
"""A pause that ends so soon after a kill is that kill's."""
PATIENCE_S = 60.0
LEAVE = 0.02


@dataclass
class Told:
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    """Of the answers, from which pauses are told; those of one moment count once."""
    kills: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)


class Soak:
    def __init__(self, service: Service, rows: np.ndarray, expected: np.ndarray, until: float) -> None:
        self._service, self._rows, self._expected, self._until = service, rows, expected, until
        self.told = Told()

    async def client(self, seed: int) -> None:
        """Asks, and compares, until the time is over."""
        chance = random.Random(seed)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._service.port)
        while time.monotonic() < self._until:
            chosen = [chance.randrange(POOL) for _ in range(chance.randint(1, 3))]
            as_json = chance.random() < 0.5
            writer.write(self._request(chosen, as_json=as_json))
            if chance.random() < LEAVE:
                await asyncio.sleep(chance.uniform(0.0, 0.05))
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self._service.port)
                self.told.counts["left"] += 1
                continue
            try:
                status, body = await asyncio.wait_for(answer(reader), PATIENCE_S)
            except (asyncio.TimeoutError, asyncio.IncompleteReadError, OSError) as error:
                self.told.wrong.append(f"items {chosen}: {type(error).__name__}")
                return
            self._compare(chosen, status, body, as_json=as_json)
        writer.close()

    def _request(self, chosen: list[int], *, as_json: bool) -> bytes:
        items = self._rows[chosen]
        if not as_json:
            return request(npy(items), "application/x-npy")
        made = request(json.dumps({"inputs": {"input": items.tolist()}}).encode(), "application/json")
        return made.replace(b"Accept: application/x-npy", b"Accept: application/json", 1)

    def _compare(self, chosen: list[int], status: int, body: bytes, *, as_json: bool) -> None:
        now = time.monotonic()
        if not self.told.arrivals or now > self.told.arrivals[-1]:
            self.told.arrivals.append(now)
        self.told.counts["answers"] += 1
        if status != 200:
            self.told.wrong.append(f"items {chosen}: {status} {body[:200]!r}")
            return
        found = (
            np.array(next(iter(json.loads(body)["outputs"].values())), np.float32) if as_json
            else np.load(io.BytesIO(body))
        )  # fmt: skip
        wanted = self._expected[chosen]
        if found.shape != wanted.shape or float(np.abs(found - wanted).max()) > TOLERANCE:
            self.told.wrong.append(f"items {chosen}: {found.tolist()}, expected {wanted.tolist()}")

    async def kill(self, every_s: float, chance: random.Random) -> None:
        """A random rank other than 0, at random moments."""
        while time.monotonic() < self._until - AFTER_KILL_S:
            await asyncio.sleep(chance.uniform(0.5, 1.5) * every_s)
            ranks = [process for rank, process in ranks_of(self._service.process.pid).items() if int(rank) > 0]
            if ranks and time.monotonic() < self._until:
                os.kill(chance.choice(ranks), signal.SIGKILL)
                self.told.kills.append(time.monotonic())

    async def weigh(self) -> None:
        await asyncio.sleep(min(WARM_S, (self._until - time.monotonic()) / 4))
        while time.monotonic() < self._until:
            own = own_bytes(self._service.process.pid)
            if own is not None:
                self.told.memory.append((time.monotonic(), own))
            await asyncio.sleep(1.0)


async def soak(run: Soak, kills: float, seed: int) -> None:
    works = [run.client(seed * CLIENTS + number) for number in range(CLIENTS)]
    others = [run.weigh()]
    if kills:
        others.append(run.kill(60 / kills, random.Random(seed)))
    side = [asyncio.ensure_future(work) for work in others]
    await asyncio.gather(*works)
    for task in side:
        task.cancel()
    await asyncio.gather(*side, return_exceptions=True)


def report(told: Told) -> bool:
    """Prints what was found; returns whether all of it is as it must be."""
    print(f"{told.counts['answers']:,} answers, {len(told.wrong)} wrong; {told.counts['left']:,} left by their clients")
    for text in told.wrong[:10]:
        print(f"WRONG: {text}")
    well = not told.wrong and told.counts["answers"] > 0
    gaps = [(end, end - begin) for begin, end in zip(told.arrivals, told.arrivals[1:], strict=False)]
    pauses = [max((gap for end, gap in gaps if 0 <= end - kill <= AFTER_KILL_S), default=0.0) for kill in told.kills]
    if gaps:
        print(f"longest pause: {max(gap for _, gap in gaps):.2f} s")
    if pauses:
        met = max(pauses) < TARGET_PAUSE_S
        print(f"{len(pauses)} kills; no answer for {statistics.median(pauses):.2f} s (median), {max(pauses):.2f} s "
              f"(largest); target < {TARGET_PAUSE_S:g} s: {'met' if met else 'MISSED'}")  # fmt: skip
        well = well and met
    return remembered(told.memory) and well


def remembered(memory: list[tuple[float, int]]) -> bool:
    """Whether rank 0 holds no more at the end than before: the largest of each third is compared."""
    if len(memory) < 3:
        print("memory: too few samples")
        return False
    third = len(memory) // 3
    parts = (memory[:third], memory[third : 2 * third], memory[-third:])
    first, middle, last = (max(own for _, own in part) for part in parts)
    fits = last - first <= TARGET_GROWTH_BYTES
    print(f"memory of rank 0: {first / 2**20:.1f} MiB of its own, {middle / 2**20:.1f} in the middle, "
          f"{last / 2**20:.1f} at the end{'' if fits else ': GROWS'}")  # fmt: skip
    return fits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=float, default=3.0, help="a minute; 0: none")
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serve-soak-") as folder:
        model = compile_tiny(Path(folder), chosen.ranks, contingency=False, detect_s=1.5)
        rows = np.stack([row(index) for index in range(POOL)])
        with torch.no_grad():
            expected = model(torch.from_numpy(rows)).numpy()
        service = Service(Path(folder) / "plan.yaml", "--restarts", "1000000")
        run = Soak(service, rows, expected, time.monotonic() + chosen.minutes * 60)
        try:
            asyncio.run(soak(run, chosen.kills, chosen.seed))
        finally:
            service.stop()
        well = report(run.told)
    print("OK" if well else "FAILED")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
