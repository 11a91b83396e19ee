"""How far the throughput of texts of mixed lengths is from what the plan says, on emulated clusters. Linux, root.

    sudo python benchmarks/mixes.py                          # MiniLM with real weights, three mixes, three clusters
    sudo python benchmarks/mixes.py --clusters one --mixes proverbs --folder work

MiniLM is profiled once, at several microbatches and lengths, on one thread. Each mix of texts is compiled for each
cluster with `workload=FILE`, and runs as `edgelaunch --emulate --input FILE`, several times: printed are the steady
throughputs' median and the prediction over it. A run counts where the machine was as fast before and after it as it was
when the model was profiled (benchmarks/machine_speed.py); where none was, all count and a mark says so.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fidelity
from commands import run
from machine_speed import Machine
from text import PROVERBS, WEIGHTS, sentences

CLUSTERS = {"one": ((0.9, "1Gbps"),), "equal": fidelity.CLUSTERS["equal"], "slow_link": fidelity.CLUSTERS["slow_link"]}
MOST_TOKENS = 128
TARGET = 0.05


def texts(mix: str) -> Iterator[str]:
    """Enough for some ten seconds on one core."""
    chance = random.Random(1)
    if mix == "proverbs":
        for _ in range(10):
            yield from PROVERBS.read_text().splitlines()
    elif mix == "short":
        words = PROVERBS.read_text().split()
        for _ in range(4000):
            begin = chance.randrange(len(words) - 8)
            yield " ".join(words[begin : begin + chance.randint(1, 6)])
    else:
        yield from sentences(700)


MIXES = ("proverbs", "short", "documents")


def profile(folder: Path, microbatch: int, busy_cores: int, machine: Machine) -> None:
    path = folder / "profiles" / "core-minilm.yaml"
    if path.exists():
        return
    run("edgecompile.commands.profile_command", "--config-dir", fidelity.write_conf(folder), "devices=one_core",
        "model=minilm", f"model.dims.length.max={MOST_TOKENS}", f"profile.folder={folder / 'profiles'}",
        f"profile.microbatches=[1,{microbatch}]", f"profile.busy_cores={busy_cores}")  # fmt: skip
    machine.reference = machine.usual()


def measured(path: Path, source: Path, machine: Machine, runs: int) -> tuple[list[float], float, bool]:
    """Steady items a second of the runs that count, what was predicted, and whether any counts."""
    counting, every, predicted = [], [], 0.0
    for _ in range(2 * runs):
        before = machine.usual()
        record = path.with_name("run.json")
        run("edgelaunch", path, "--emulate", "--quiet", "--input", source, "--output", path.with_name("out.npy"),
            "--run", record)  # fmt: skip
        told = json.loads(record.read_text())
        predicted = told["predicted_items_per_s"]
        every.append(told["steady_items_per_s"])
        if max(machine.distance(before), machine.distance(machine.usual())) < fidelity.ALIKE:
            counting.append(every[-1])
        if len(counting) == runs:
            break
    return counting or every, predicted, bool(counting)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", nargs="+", default=list(CLUSTERS))
    parser.add_argument("--mixes", nargs="+", default=MIXES)
    parser.add_argument("--microbatch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--busy-cores", type=int, default=0, help="that work while MiniLM is profiled, as in a run")
    parser.add_argument("--folder", type=Path, help="keeps profiles and plans")
    args = parser.parse_args()
    fidelity.CLUSTERS.update(CLUSTERS)
    machine, worst = Machine(), 0.0
    with tempfile.TemporaryDirectory(prefix="edgebench-") as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        profile(folder, args.microbatch, args.busy_cores, machine)
        print("  cluster        mix  stages  predicted  measured   error  runs", flush=True)
        for mix in args.mixes:
            source = folder / f"{mix}.txt"
            source.write_text("\n".join(texts(mix)) + "\n")
            for cluster in args.clusters:
                into = folder / "plans" / f"{mix}-{cluster}"
                run("edgecompile.commands.compile_command", "--config-dir", fidelity.write_conf(folder),
                    f"devices={cluster}", "model=minilm", f"weights={WEIGHTS}",
                    f"model.dims.length.max={MOST_TOKENS}", f"microbatch={args.microbatch}", f"workload={source}",
                    "profile=measured", f"profile.folder={folder / 'profiles'}", f"output_dir={into}")  # fmt: skip
                found, predicted, counts = measured(into / "plan.yaml", source, machine, args.runs)
                error = predicted / statistics.median(found) - 1
                worst = max(worst, abs(error))
                stages = (into / "plan.yaml").read_text().count("- stage: ")
                mark = "" if counts else ", none on a machine as fast as when it was profiled"
                print(f"{cluster:>9}  {mix:>9}  {stages:6}  {predicted:9.1f}  {statistics.median(found):8.1f}  "
                      f"{error:+6.1%}  {len(found)}{mark}", flush=True)  # fmt: skip
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
