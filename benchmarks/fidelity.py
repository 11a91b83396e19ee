"""How far the throughput of a pipeline is from what its plan says, on emulated clusters. Linux, root.

    python benchmarks/fidelity.py                                    # 18 cases: 3 models, 3 clusters, 2 schedules
    python benchmarks/fidelity.py --models deit_small --clusters four --folder work
    python benchmarks/fidelity.py --folder work --only-prepare       # profiles and plans, no runs

Each model is profiled once with edgeprofile, on one thread. Of each model and cluster the exact and the even plan are
alive together, each with namespaces, rates and cores of its own, and send bursts of microbatches in turns, so that a
slow moment of the machine falls on both. A burst's throughput is that of its middle, while the pipeline is full.

The machine should be idle otherwise, from the profile to the last burst. Where it is a virtual one, others on the same
board slow it down by 10 to 40 % for seconds at a time. So a fixed piece of work on two cores tells the machine's speed
before and after the profile, and before and after each burst: a burst counts if both were within 6 % of the profile's.
Up to three times as many bursts are tried, the table says how many counted, and beside the median of those stands that
of all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from commands import run
from machine_speed import Machine
from processes import figures, share_a_secret

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution.allocator import heap_environment
from edgelaunch.emulation.emulated_run import MASTER_PORT, Emulation

MODELS = ("deit_small", "bert_base", "vit_base")
SCHEDULES = ("exact", "even")
CLUSTERS = {
    "equal": ((0.9, "1Gbps"), (0.9, "1Gbps")),
    "four": ((0.9, "100Mbps"), (0.45, "100Mbps"), (0.225, "50Mbps"), (0.225, "20Mbps")),
    "slow_link": ((0.45, "100Mbps"), (0.45, "100Mbps"), (0.9, "10Mbps")),
}
"""Cores and the rate of the interface of each host."""
TARGET, LIMIT = 0.05, 0.10
MEMORY_SHARE, MEMORY_BYTES = 0.10, 20e6
BURST_S = 2.5
LEAST_MICROBATCHES = 6
ALIKE = 0.06
"""So near to its speed at the profiling the machine must be for a burst to count."""
MOST_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case; throughputs in items a second."""

    model: str
    cluster: str
    schedule: str
    num_stages: int
    bottleneck: str
    predicted: float
    simulated: float
    measured: tuple[float, ...]
    """Of each burst that counts."""
    every: tuple[float, ...]
    """Of all bursts."""
    memory: tuple[tuple[int, int, int], ...]
    """Rank, bytes predicted, and its peak of anonymous bytes."""

    @property
    def throughput(self) -> float:
        return statistics.median(self.measured)

    @property
    def error(self) -> float:
        """Of the prediction."""
        return self.predicted / self.throughput - 1


# --- profiles and plans ---------------------------------------------------------------------------------------------


def write_conf(folder: Path) -> Path:
    """A config folder with the clusters; all kinds are shares of one core, whose profile holds for them."""
    for name, hosts in CLUSTERS.items():
        boards, kinds, members = [], [], []
        for index, (share, rate) in enumerate(hosts):
            kind = f"core{round(share * 1000)}"
            if f"  - /board@{kind}: local" not in boards:
                boards.append(f"  - /board@{kind}: local")
                kinds.append(f"{kind}: {{threads: 1, cpu_share: {share}, profile_of: core}}")
            members.append(
                f"  h{index}: {{device: {kind}, address: 127.0.0.1, port: {29500 + index}, bandwidth: {rate}}}"
            )
        network = "network: {model: host, latency: 100us}"
        for group, lines in (
            ("devices", ["defaults:", *boards, "  - _self_", *kinds]),
            ("hosts", [network, "members:", *members]),
        ):
            path = folder / "conf" / group / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
    for group, text in (
        ("devices", "defaults:\n  - /board@core: local\n  - _self_\ncore: {threads: 1}\n"),
        ("hosts", "members: {one: {device: core}}\n"),
    ):
        (folder / "conf" / group / "one_core.yaml").write_text(text)
    return folder / "conf"


def profile(model: str, folder: Path, args: argparse.Namespace, machine: Machine) -> None:
    """If that is yet to be done; up to three times, if the machine was not as fast before as after."""
    path = folder / "profiles" / f"core-{model}.yaml"
    kept = folder / "profiles" / f"speed-{model}.json"
    if path.exists() and kept.exists():
        machine.reference = float(json.loads(kept.read_text()))
        return
    sizes = ",".join(map(str, args.profiled))
    for _ in range(MOST_TRIES):
        path.unlink(missing_ok=True)
        before = machine.usual()
        run("edgecompile.commands.profile_command", "--config-dir", write_conf(folder), "devices=one_core",
            f"model={model}",
            f"profile.folder={folder / 'profiles'}", f"profile.microbatches=[{sizes}]",
            f"profile.busy_cores={args.busy_cores}")  # fmt: skip
        after = machine.usual()
        machine.reference = (before + after) / 2
        if machine.distance(before) <= ALIKE / 2:
            break
    kept.write_text(json.dumps(machine.reference))


def compiled(model: str, cluster: str, schedule: str, folder: Path, args: argparse.Namespace) -> Path:
    """The plan's path; compiled if that is yet to be done."""
    into = folder / "plans" / f"{model}-{cluster}-{schedule}-{args.microbatch}"
    if not (into / "plan.yaml").exists():
        run("edgecompile.commands.compile_command", "--config-dir", write_conf(folder), f"devices={cluster}",
            f"model={model}",
            f"schedule={schedule}", f"microbatch={args.microbatch}", "profile=measured",
            f"profile.folder={folder / 'profiles'}", f"output_dir={into}")  # fmt: skip
    return into / "plan.yaml"


def simulated(path: Path) -> float:
    """What `edgeplan simulate` says."""
    text = run("edgecompile.commands.plan_command", "simulate", path, "--json")
    return float(json.loads(text)["simulated"]["throughput_items_per_s"])


# --- runs -----------------------------------------------------------------------------------------------------------


class LivePipeline:
    """All ranks of a plan, each on its emulated host, waiting for bursts."""

    def __init__(self, path: Path, emulation: Emulation) -> None:
        self.plan = read_plan(path)
        self.peaks: dict[int, int] = {}
        """Each rank's most anonymous bytes, looked at every few milliseconds until `look_no_more`."""
        self._stop = threading.Event()
        master = f"{emulation.address(0)}:{MASTER_PORT}"
        script = Path(__file__).with_name("burst.py")
        commands = [[sys.executable, str(script), str(path), master]]
        for rank in range(1, len(self.plan.hosts)):
            words = [str(path), "--rank", str(rank), "--master", master, "--threads", str(emulation.threads(rank))]
            commands.append([sys.executable, "-m", "edgelaunch", *words, "--quiet"])
        environ = dict(os.environ) | heap_environment(os.environ)
        self._ranks = [
            subprocess.Popen([*emulation.prefix(rank), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True, env=environ)
            for rank, command in enumerate(commands)
        ]  # fmt: skip
        self._looker = threading.Thread(target=self._look, daemon=True)
        self._looker.start()

    def result(self) -> list[float]:
        """The data host's next line."""
        stream = self._ranks[0].stdout
        assert stream is not None
        line = stream.readline()
        if not line:
            raise SystemExit("the pipeline's data host ended; its last words are above")
        return list(json.loads(line))

    def burst(self) -> float:
        """Items a second while the pipeline is full."""
        num_stages = len(self.plan.stages)
        begin, end = num_stages + 1, num_stages
        middle = max(LEAST_MICROBATCHES, math.ceil(BURST_S / self.plan.predicted.period_s))
        stream = self._ranks[0].stdin
        assert stream is not None
        stream.write(f"{begin + middle + end}\n")
        stream.flush()
        seen = self.result()
        return middle * self.plan.model.microbatch / (seen[begin - 1 + middle] - seen[begin - 1])

    def look_no_more(self) -> None:
        """Looking takes some percent of a core."""
        self._stop.set()
        self._looker.join()

    def end(self) -> None:
        self.look_no_more()
        for process in self._ranks:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._ranks:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _look(self) -> None:
        while not self._stop.wait(0.01):
            for rank, process in enumerate(self._ranks):
                seen = figures(process.pid)
                if seen is not None:
                    self.peaks[rank] = max(self.peaks.get(rank, 0), seen.anonymous_bytes)


@contextlib.contextmanager
def live(path: Path) -> Iterator[LivePipeline]:
    with Emulation(read_plan(path)) as emulation:
        pipeline = LivePipeline(path, emulation)
        try:
            pipeline.result()
            yield pipeline
        finally:
            pipeline.end()


def run_pair(model: str, cluster: str, folder: Path, args: argparse.Namespace, machine: Machine) -> list[Row]:
    """Both schedules of a model on a cluster, alive together."""
    paths = [compiled(model, cluster, schedule, folder, args) for schedule in SCHEDULES]
    rounds: list[tuple[float, list[float]]] = []
    """How far the machine was from its speed at the profiling around each round, and each plan's throughput."""
    with contextlib.ExitStack() as stack:
        pipelines = [stack.enter_context(live(path)) for path in paths]
        for pipeline in pipelines:
            for _ in range(2):
                pipeline.burst()
            pipeline.look_no_more()
        while len(rounds) < MOST_TRIES * args.bursts and len(_counting(rounds)) < args.bursts:
            speeds = [machine.speed()]
            rates = []
            for pipeline in pipelines:
                rates.append(pipeline.burst())
                speeds.append(machine.speed())
            rounds.append((max(map(machine.distance, speeds)), rates))
    counting = _counting(rounds)
    rows = []
    for index, (schedule, pipeline) in enumerate(zip(SCHEDULES, pipelines, strict=True)):
        plan = pipeline.plan
        rows.append(
            Row(
                model=model, cluster=cluster, schedule=schedule, num_stages=len(plan.stages),
                bottleneck=plan.predicted.bottleneck, predicted=plan.predicted.throughput_items_per_s,
                simulated=simulated(paths[index]), measured=tuple(rates[index] for rates in counting),
                every=tuple(rates[index] for _, rates in rounds),
                memory=memory(plan, pipeline.peaks),
            )
        )  # fmt: skip
    return rows


def _counting(rounds: Sequence[tuple[float, list[float]]]) -> list[list[float]]:
    """The rounds at the profile's speed; those of the quarter that came nearest, if fewer are."""
    found = [rates for distance, rates in rounds if distance <= ALIKE]
    ranked = [rates for _, rates in sorted(rounds, key=lambda item: item[0])]
    return found if len(found) >= len(rounds) / 4 else ranked[: math.ceil(len(rounds) / 4)]


def memory(plan: Plan, peaks: dict[int, int]) -> tuple[tuple[int, int, int], ...]:
    return tuple((stage.rank, stage.predicted.memory_bytes, peaks[stage.rank]) for stage in plan.stages)


# --- the report ------------------------------------------------------------------------------------------------------


def tell(row: Row) -> None:
    low, high = min(row.measured), max(row.measured)
    print(
        f"{row.model:>10} {row.cluster:>9} {row.schedule:>5}  {row.num_stages} stages  predicted {row.predicted:7.3f}"
        f"  measured {row.throughput:7.3f} ({low:.3f} to {high:.3f}; {len(row.measured)} of {len(row.every)} bursts;"
        f" of all {statistics.median(row.every):.3f})  error {row.error:+6.1%}"
        f"  simulated {row.simulated:7.3f} ({row.simulated / row.throughput - 1:+.1%})"
        f"  {row.bottleneck}",
        flush=True,
    )
    for rank, predicted, peak in row.memory:
        missed = abs(peak - predicted) > max(MEMORY_SHARE * predicted, MEMORY_BYTES)
        if missed:
            print(f"{'':>28}rank {rank}: {predicted / 1e6:.0f} MB predicted, {peak / 1e6:.0f} MB taken  MISSED")


def judge(rows: Sequence[Row]) -> bool:
    """Prints what the rows say together; whether all targets are met."""
    errors = [abs(row.error) for row in rows]
    worst = max(rows, key=lambda row: abs(row.error))
    within = sum(error <= TARGET for error in errors)
    print(f"{within} of {len(rows)} within {TARGET:.0%}, {sum(error <= LIMIT for error in errors)} within {LIMIT:.0%}; "
          f"worst: {worst.model} {worst.cluster} {worst.schedule} {worst.error:+.1%}")  # fmt: skip
    met = within >= 16 / 18 * len(rows) and max(errors) <= LIMIT
    cells = [(rank, peak - predicted, predicted) for row in rows for rank, predicted, peak in row.memory]
    fitting = [abs(off) <= max(MEMORY_SHARE * predicted, MEMORY_BYTES) for _, off, predicted in cells]
    print(f"memory: {sum(fitting)} of {len(cells)} ranks within {MEMORY_SHARE:.0%} or {MEMORY_BYTES / 1e6:.0f} MB")
    return _judge_order(rows) and met and all(fitting)


def _judge_order(rows: Sequence[Row]) -> bool:
    met = True
    for exact, even in zip(rows[::2], rows[1::2], strict=True):
        gain = statistics.median(one / other for one, other in zip(exact.measured, even.measured, strict=True))
        planned = exact.predicted / even.predicted
        least = 1.5 if exact.cluster == "four" else 0.97
        good = gain >= least and (abs(planned - 1) <= LIMIT or (gain > 1) == (planned > 1))
        print(f"{exact.model} {exact.cluster}: exact over even {gain:.2f}, predicted {planned:.2f}, at least {least}: "
              f"{'met' if good else 'MISSED'}")  # fmt: skip
        met &= good
    return met


def main() -> int:
    share_a_secret()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--clusters", nargs="+", choices=CLUSTERS, default=list(CLUSTERS))
    parser.add_argument("--bursts", type=int, default=8, help="of each plan")
    parser.add_argument("--microbatch", type=int, default=1)
    parser.add_argument("--profiled", type=int, nargs="+", default=[1, 4], help="microbatch sizes to profile")
    parser.add_argument("--busy-cores", type=int, default=1, help="kept busy while profiling, as other hosts do")
    parser.add_argument("--folder", type=Path, help="for profiles and plans, which are used again; else thrown away")
    parser.add_argument("--only-prepare", action="store_true", help="profiles and plans, no runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    machine = Machine()
    with tempfile.TemporaryDirectory(prefix="edgebench-") as own:
        folder = (args.folder or Path(own)).resolve()
        for model in args.models:
            profile(model, folder, args, machine)
            for cluster in args.clusters:
                if args.only_prepare:
                    for schedule in SCHEDULES:
                        compiled(model, cluster, schedule, folder, args)
                    continue
                rows += run_pair(model, cluster, folder, args, machine)
                for row in rows[-2:]:
                    tell(row)
        if args.folder and rows:
            name = f"rows-{'-'.join(args.models)}-{'-'.join(args.clusters)}.json"
            (folder / name).write_text(json.dumps([asdict(row) for row in rows]))
    return 0 if not rows or judge(rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        raise SystemExit(str(error)) from None
