"""Kills and stops ranks while a stream runs, and the data host with --resume; checks every result, prints the pauses.

    python benchmarks/kills.py [--quick] [--kills 50] [--ends 10] [--ranks 3,4,5] [--seed 0]

A rank is killed once a random number of further results is there, not at a random second. The pause is the time from
the signal to the end of the longest gap between results that follows: what was already past the killed rank comes out
at once, and does not count. Every result must be there once, in order, and equal to the eager model's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

WIDTH = 32
TOLERANCE = 1e-5
AHEAD = 64
PATIENCE_S = 120.0
KINDS = ("kill-contingency", "stop-contingency", "kill-restart", "stop-restart", "data-host", "everything")
EDGELAUNCH = (sys.executable, "-m", "edgelaunch")


def tiny() -> torch.nn.Module:
    """Six small blocks: enough units for five stages."""
    blocks = [module for _ in range(6) for module in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh())]
    return torch.nn.Sequential(*blocks, torch.nn.Linear(WIDTH, 4))


def row(index: int) -> np.ndarray:
    return np.random.default_rng(index).standard_normal(WIDTH).astype(np.float32)


def compile_tiny(
    folder: Path, num_ranks: int, contingency: bool, detect_s: float, rejoin_s: float = 60.0
) -> torch.nn.Module:
    """Writes the plan, and returns the eager model."""
    from edgecompile.commands.compile_command import compose
    from edgecompile.config.model_spec import model_of
    from edgecompile.models import build_model
    from edgecompile.pipeline import compile_model

    conf = compose([
        "model=custom", "model.name=tiny", "model.build._target_=kills.tiny",
        f"model.inputs={{input: {{shape: [{WIDTH}], dtype: float32}}}}", "devices=local", f"hosts.count={num_ranks}",
        "schedule=even", "microbatch=2", f"contingency={int(contingency)}", f"runtime.detect={detect_s}s",
        f"runtime.rejoin={rejoin_s}s",
        f"output_dir={folder}",
    ])  # fmt: skip
    compile_model(conf, lambda text: threading.Lock())
    return build_model(model_of(conf.model), conf.seed).eval()


def check(path: Path, model: torch.nn.Module, count: int) -> None:
    """Every result once, in order, and the model's."""
    with torch.no_grad():
        expected = model(torch.from_numpy(np.stack([row(index) for index in range(count)]))).numpy()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    indices = [record["index"] for record in records]
    assert indices == list(range(count)), f"{path}: {len(indices)} results, not the items 0 to {count - 1} in order"
    given = np.array([next(iter(record["outputs"].values())) for record in records], np.float32)
    worst = float(np.abs(given - expected).max())
    assert worst <= TOLERANCE, f"{path}: differs from the eager model by {worst}"


class Stream:
    """`edgelaunch --local` fed through standard input; its results are followed as they are written."""

    def __init__(self, plan: Path, output: Path) -> None:
        self.plan, self._partial = plan, output.with_name(f"{output.name}.partial") / "rows.jsonl"
        words = ("--local", "--restarts", "1000000", "--input", "-", "--output")
        self.process = subprocess.Popen(
            [*EDGELAUNCH, str(plan), *words, str(output)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self.arrivals: list[float] = []
        """When each of the last results was seen, on the monotonic clock."""
        self.num_results = self.num_fed = 0
        self._offset = 0
        self._ending = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._feed)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode())

    def _feed(self) -> None:
        assert self.process.stdin is not None
        while not self._ending:
            if self.num_fed - self.num_results >= AHEAD:
                time.sleep(0.002)
                continue
            self.process.stdin.write(json.dumps(row(self.num_fed).tolist()).encode() + b"\n")
            self.process.stdin.flush()
            self.num_fed += 1
        self.process.stdin.close()

    def look(self) -> None:
        """Counts the results that are there."""
        time.sleep(0.003)
        assert self.process.poll() is None, "".join(self.lines[-12:])
        try:
            with self._partial.open("rb") as file:
                file.seek(self._offset)
                piece = file.read()
        except FileNotFoundError:
            return
        if piece:
            self._offset += len(piece)
            self.num_results += piece.count(b"\n")
            self.arrivals.append(time.monotonic())

    def until(self, what: str, condition) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            self.look()
            assert time.monotonic() < deadline, f"{what}: not in {PATIENCE_S} s\n" + "".join(self.lines[-12:])

    def num_lines(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    def end(self) -> int:
        """Ends the input; returns how many items were fed, once the run is complete."""
        self._ending = True
        self._threads[1].join(PATIENCE_S)
        assert self.process.wait(PATIENCE_S) == 0, "".join(self.lines[-12:])
        return self.num_fed


def processes(plan: Path) -> dict[int, int]:
    """The process of each rank that runs the plan here."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(plan).encode() in words and b"--rank" in words:
                found[int(words[words.index(b"--rank") + 1])] = int(entry.name)
    return found


@dataclass
class Kill:
    how: signal.Signals
    rank: int
    pause_s: float


def kill_one(stream: Stream, how: signal.Signals, random_: random.Random, num_ranks: int) -> Kill:
    wanted = stream.num_results + random_.randint(1, 200)
    stream.until("results", lambda: stream.num_results >= wanted)
    rank = random_.randrange(1, num_ranks)
    again, whole = stream.num_lines("results again"), stream.num_lines("continuing as planned")
    stream.arrivals.clear()
    begin = time.monotonic()
    os.kill(processes(stream.plan)[rank], how)
    stream.until(f"results after {how.name} of rank {rank}", lambda: stream.num_lines("results again") > again)
    seen = len(stream.arrivals)
    stream.until("one more result", lambda: len(stream.arrivals) > seen)  # the line may come before its result
    times = [begin, *stream.arrivals]
    _, end = max((after - before, after) for before, after in itertools.pairwise(times))
    stream.until("the rank's return", lambda: stream.num_lines("continuing as planned") > whole)
    return Kill(how, rank, end - begin)


def kills(folder: Path, num_ranks: int, contingency: bool, how: signal.Signals, count: int, seed: int,
          detect_s: float) -> list[Kill]:  # fmt: skip
    """So many in one stream; the next one only when all ranks are there again."""
    model = compile_tiny(folder, num_ranks, contingency, detect_s)
    random_ = random.Random(seed)
    stream = Stream(folder / "plan.yaml", folder / "y.jsonl")
    try:
        done = [kill_one(stream, how, random_, num_ranks) for _ in range(count)]
        check_count = stream.end()
    finally:
        stop(stream.process, folder / "plan.yaml")
    check(folder / "y.jsonl", model, check_count)
    return done


def stop(process: subprocess.Popen[bytes], plan: Path) -> None:
    for number in (*processes(plan).values(), *([process.pid] if process.poll() is None else [])):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def resumes(folder: Path, num_ranks: int, count: int, seed: int, everything: bool) -> None:
    """Kills the data host, or all processes at once, at random items; --resume continues until all is there."""
    model = compile_tiny(folder, num_ranks, contingency=False, detect_s=2.0)
    random_, num_items = random.Random(seed), 1000 * (count + 1)
    np.save(folder / "x.npy", np.stack([row(index) for index in range(num_items)]))
    output, plan = folder / "y.jsonl", folder / "plan.yaml"
    words = [*EDGELAUNCH, str(plan), "--local", "--input", str(folder / "x.npy"), "--output", str(output), "--resume"]
    rows = folder / "y.jsonl.partial" / "rows.jsonl"
    for number in range(count):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        wanted = 1000 * number + random_.randint(1, 999)
        deadline = time.monotonic() + PATIENCE_S
        while not (rows.exists() and rows.read_bytes().count(b"\n") >= wanted):
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            assert time.monotonic() < deadline, "no results"
            time.sleep(0.005)
        if everything:
            stop(process, plan)
            continue
        begin = time.monotonic()
        os.kill(processes(plan)[0], signal.SIGKILL)
        text = process.communicate(timeout=PATIENCE_S)[1].decode()
        assert process.returncode == 2, text
        assert "was killed by SIGKILL" in text, text
        assert "continue with --resume" in text, text
        assert not processes(plan), f"ranks that outlive the data host after {time.monotonic() - begin:.1f} s"
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S * 4, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"results in .* of them of an earlier run", done.stdout), done.stdout
    check(output, model, num_items)


def show(what: str, done: list[Kill]) -> None:
    pauses = sorted(kill.pause_s for kill in done)
    times = f"{pauses[0]:.2f} / {statistics.median(pauses):.2f} / {pauses[-1]:.2f} s (min/median/max)"
    print(f"{what}: {len(done)} kills, every result there once, in order and equal; kill to next result {times}",
          flush=True)  # fmt: skip


def shares(count: int, parts: int) -> Iterator[int]:
    yield from (count * (index + 1) // parts - count * index // parts for index in range(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three kills of each kind")
    parser.add_argument("--kills", type=int, default=50, help="of each of the four kinds")
    parser.add_argument("--ends", type=int, default=10, help="of the data host, and as many of everything")
    parser.add_argument("--ranks", default="3,4,5")
    parser.add_argument("--only", choices=KINDS, action="append", help="this kind; may be given more than once")
    parser.add_argument("--raw", action="store_true", help="print every pause too")
    parser.add_argument("--detect", type=float, default=2.0, help="seconds: runtime.detect")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ranks = [int(word) for word in arguments.ranks.split(",")]
    num_kills, num_ends = (3, 2) if arguments.quick else (arguments.kills, arguments.ends)
    only = arguments.only or KINDS
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        for contingency in (True, False):
            for how in (signal.SIGKILL, signal.SIGSTOP):
                if f"{how.name[3:].lower()}-{'contingency' if contingency else 'restart'}" not in only:
                    continue
                done: list[Kill] = []
                for index, (num_ranks, count) in enumerate(zip(ranks, shares(num_kills, len(ranks)), strict=True)):
                    place = folder / f"{contingency}-{how.name}-{num_ranks}"
                    done += kills(place, num_ranks, contingency, how, count, arguments.seed + index, arguments.detect)
                way = "with a contingency plan" if contingency else "by a restarted rank"
                after = f", detection after {arguments.detect:g} s included" if how == signal.SIGSTOP else ""
                show(f"{how.name}, {way}{after}", done)
                if arguments.raw:
                    print("pauses", *(f"{kill.pause_s:.2f}" for kill in done), flush=True)
        for everything in (False, True):
            if ("everything" if everything else "data-host") not in only:
                continue
            resumes(folder / f"resume-{everything}", ranks[0], num_ends, arguments.seed, everything)
            what = "of everything at once" if everything else "of the data host"
            print(f"{num_ends} kills {what}: after --resume the output is complete, in order and equal", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
