"""Cuts links among ranks in network namespaces while a stream runs; checks every result. Linux, root.

    python benchmarks/link_cuts.py [--cuts 20] [--ranks 4] [--detect 3] [--seconds 2,60] [--seed 0]

Each cut is of two ranks drawn at random, both ways or one way (a blackhole route at one end), and lasts a time drawn at
random. One that lasts longer than the time of detection must be named within it. Half of the cuts are made with
contingency plans, half without; a rank that ends because it lost contact with rank 0 is restarted, as by systemd.
Last, a link that stays cut where no plan does without it: the run must end and name it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from kills import AHEAD, EDGELAUNCH, check, compile_tiny, row
from link_drops import Restarted
from processes import share_a_secret
from slow_link import why_not

from edgelaunch.emulation.netns import Namespaces

PATIENCE_S = 120.0
PORT = 29500
QUIET_S = 3.0
"""What a cut that nobody needs may take to be noticed after all."""


@dataclass(frozen=True)
class Cut:
    first: int
    second: int
    one_way: bool
    seconds: float

    def __str__(self) -> str:
        way = "->" if self.one_way else "--"
        return f"{self.first} {way} {self.second} for {self.seconds:.1f} s"


class Cluster:
    """Ranks in namespaces that reach each other directly, fed through rank 0's standard input."""

    def __init__(self, folder: Path, num_ranks: int, *, contingency: bool, detect_s: float, rejoin_s: float) -> None:
        self.folder, self.num_ranks = folder, num_ranks
        self.model: torch.nn.Module = compile_tiny(folder, num_ranks, contingency, detect_s, rejoin_s)
        self.lines: list[tuple[float, str]] = []
        """What rank 0 said, with the time."""
        self.num_results = self.num_fed = 0
        self._ending = False
        self._spaces = Namespaces(f"linkcuts-{os.getpid()}-{folder.name}", num_ranks)

    def __enter__(self) -> Cluster:
        try:
            self._spaces.star([None] * self.num_ranks)
            self._start()
        except BaseException:
            self._spaces.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.first, *(other.process for other in self.others)):
            process.kill()
            process.wait()
        self._spaces.remove()

    def _start(self) -> None:
        words = [*EDGELAUNCH, str(self.folder / "plan.yaml"), "--master", f"{self._spaces.address(0)}:{PORT}", "--rank"]
        self.output = self.folder / "y.jsonl"
        ends = ["--input", "-", "--output", str(self.output)]
        self.first = subprocess.Popen([*self._spaces.prefix(0), *words, "0", *ends], stdin=subprocess.PIPE,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
        self.others = [Restarted([*self._spaces.prefix(rank), *words, str(rank)]) for rank in range(1, self.num_ranks)]
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._feed, self._look)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self.first.stderr is not None
        for line in self.first.stderr:
            self.lines.append((time.monotonic(), line.rstrip()))

    def _feed(self) -> None:
        assert self.first.stdin is not None
        try:
            while not self._ending:
                if self.num_fed - self.num_results >= AHEAD:
                    time.sleep(0.01)
                    continue
                self.first.stdin.write(json.dumps(row(self.num_fed).tolist()) + "\n")
                self.first.stdin.flush()
                self.num_fed += 1
                time.sleep(0.01)
            self.first.stdin.close()
        except BrokenPipeError:
            return  # the run has ended: its exit status and its words say why

    def _look(self) -> None:
        rows, offset = self.output.with_name("y.jsonl.partial") / "rows.jsonl", 0
        while not self._ending:
            time.sleep(0.02)
            if rows.exists():
                with rows.open("rb") as file:
                    file.seek(offset)
                    piece = file.read()
                offset += len(piece)
                self.num_results += piece.count(b"\n")

    def said(self) -> str:
        mine = "\n".join(f"{at:10.2f} {line}" for at, line in self.lines[-40:])
        return mine + "\n" + "\n".join("\n".join(other.said[-8:]) for other in self.others)

    def until(self, what: str, condition, patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            time.sleep(0.01)
            assert self.first.poll() is None, f"{what}: rank 0 ended with {self.first.returncode}\n{self.said()}"
            assert time.monotonic() < deadline, f"{what}: not in {patience_s:g} s\n{self.said()}"

    def results(self, count: int) -> None:
        """Waits for so many more."""
        wanted = self.num_results + count
        self.until(f"{count} results", lambda: self.num_results >= wanted)

    def blackhole(self, cut: Cut, verb: str) -> None:
        ways = [(cut.first, cut.second)] + ([] if cut.one_way else [(cut.second, cut.first)])
        for source, destination in ways:
            where = ["ip", "-n", self._spaces.name(source), "route", verb, "blackhole"]
            subprocess.run([*where, self._spaces.address(destination)], check=True)

    def names(self, cut: Cut, begin: float) -> float | None:
        """When rank 0 named the link or, where that is an end of it, the rank at the other one; None: not yet."""
        for at, line in list(self.lines):
            link = all(f"rank {rank} (" in line for rank in (cut.first, cut.second)) and "is cut" in line
            lost = 0 in (cut.first, cut.second) and f": rank {max(cut.first, cut.second)} (" in line
            if at > begin and (link or (lost and ("stopped answering" in line or "is gone" in line))):
                return at
        return None

    def whole(self) -> bool:
        """Whether all ranks and links are there again, as far as rank 0 has said that one was not."""

        def last(*texts: str) -> float:
            return max((at for at, line in self.lines if any(text in line for text in texts)), default=0.0)

        planned = last("continuing as planned")
        there = last("stopped answering", "is gone", "continuing without") <= planned
        return there and last("is cut") <= max(planned, last("is up again"))

    def end(self) -> None:
        self._ending = True
        assert self.first.wait(PATIENCE_S) == 0, self.said()
        check(self.output, self.model, self.num_fed)


def draw(random_: random.Random, num_ranks: int, shortest_s: float, longest_s: float) -> Cut:
    first, second = random_.sample(range(num_ranks), 2)
    one_way = random_.random() < 0.5
    seconds = math.exp(random_.uniform(math.log(shortest_s), math.log(longest_s)))
    return Cut(first, second, one_way, seconds)


def cut_once(cluster: Cluster, cut: Cut, detect_s: float, used: set[frozenset[int]]) -> float | None:
    """Seconds until the cut was named; None where it was too short, or of a link that no plan uses."""
    cluster.results(20)
    begin = time.monotonic()
    cluster.blackhole(cut, "add")
    time.sleep(max(0.0, begin + cut.seconds - time.monotonic()))
    cluster.blackhole(cut, "delete")
    healed = time.monotonic()
    named = cluster.names(cut, begin)
    if cut.seconds > detect_s and frozenset((cut.first, cut.second)) in used:
        assert named is not None, f"cut {cut}: not named\n{cluster.said()}"
    time.sleep(QUIET_S)
    cluster.until(f"all ranks and links after cut {cut}", cluster.whole)
    cluster.results(20)
    delay = None if named is None else named - begin
    unused = "" if frozenset((cut.first, cut.second)) in used else ", since no plan uses it"
    shown = f"not named{unused}" if delay is None else f"named after {delay:.2f} s"
    first_again = next((at for at, line in cluster.lines if "results again" in line and at > healed), None)
    again = "" if first_again is None else f", results again {max(0.0, first_again - healed):.2f} s after the heal"
    print(f"cut {cut}: {shown}{again}", flush=True)
    return delay


def many(folder: Path, num_ranks: int, cuts: list[Cut], *, contingency: bool, detect_s: float) -> list[float]:
    """One stream with all these cuts; how long each took to be named."""
    from edgecompile.contract.plan_file import read_plan
    from edgelaunch.common.plan_parts import links_watched

    with Cluster(folder, num_ranks, contingency=contingency, detect_s=detect_s, rejoin_s=120.0) as cluster:
        plan = read_plan(folder / "plan.yaml")
        used = {frozenset((rank, other)) for rank in range(num_ranks) for other in links_watched(plan, rank)}
        found = [cut_once(cluster, cut, detect_s, used) for cut in cuts]
        cluster.end()
        print(f"{len(cuts)} cuts {'with' if contingency else 'without'} contingency plans: {cluster.num_fed} results, "
              "each once, in order and equal", flush=True)  # fmt: skip
    return [delay for delay in found if delay is not None]


def ends(folder: Path, num_ranks: int, detect_s: float) -> None:
    """A link that stays cut, and no plan without it."""
    cut, rejoin_s = Cut(1, 2, one_way=False, seconds=math.inf), 4.0
    with Cluster(folder, num_ranks, contingency=False, detect_s=detect_s, rejoin_s=rejoin_s) as cluster:
        cluster.results(20)
        cluster.blackhole(cut, "add")
        code = cluster.first.wait(PATIENCE_S)
        time.sleep(0.2)
        line = cluster.lines[-1][1] if cluster.lines else ""
        for text in (
            "edgelaunch: error: the link between rank 1 (",
            "and rank 2 (",
            f"did not heal within {rejoin_s:g} s",
        ):
            assert text in cluster.said(), cluster.said()
        assert code == 2, cluster.said()
    print(f"a link that stays cut: {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--detect", type=float, default=3.0, help="seconds: runtime.detect")
    parser.add_argument("--seconds", default="2,60", help="the shortest and the longest cut")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    share_a_secret()
    shortest_s, longest_s = (float(word) for word in arguments.seconds.split(","))
    random_ = random.Random(arguments.seed)
    cuts = [draw(random_, arguments.ranks, shortest_s, longest_s) for _ in range(arguments.cuts)]
    half = len(cuts) // 2
    folder = Path(tempfile.mkdtemp(prefix="cuts-"))
    try:
        delays = many(folder / "with", arguments.ranks, cuts[:half], contingency=True, detect_s=arguments.detect)
        delays += many(folder / "bare", arguments.ranks, cuts[half:], contingency=False, detect_s=arguments.detect)
        ends(folder / "end", arguments.ranks, arguments.detect)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if delays:
        late = sum(delay > arguments.detect for delay in delays)
        times = f"{min(delays):.2f} / {statistics.median(delays):.2f} / {max(delays):.2f} s (min/median/max)"
        print(f"{len(delays)} cuts were named after {times}, {late} of them later than runtime.detect "
              f"({arguments.detect:g} s)")  # fmt: skip


if __name__ == "__main__":
    main()
