"""How well the sums of a profile's unit times predict stages that it did not measure.

    python benchmarks/unit_times.py                                    # vit_base and deit_small
    python benchmarks/unit_times.py --models bert_base --microbatches 4 --folder profiles

Profiles each model with edgeprofile at microbatch 1 and 8, then times random ranges of units as shards, written and
loaded as a rank's are, in turns, and compares the medians with the sums; also at microbatch 4, which was not profiled.
One thread, nothing else running. Where something else takes the cores, the CPU's seconds still tell; they are printed
beside the wall's.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgecompile.artifacts.shards import write_shard
from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import cluster_of
from edgecompile.config.model_spec import model_of
from edgecompile.config.request import capture_of, profile_of
from edgecompile.execution import torchscript
from edgecompile.execution.allocator import keep_freed_memory
from edgecompile.execution.prepack import ROWS_RECORD, pays_here, prepack_traced, rows_in
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.chain.build_chain import chain_of
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs
from edgecompile.models import build_model
from edgecompile.profile.measured import make_profile
from edgecompile.profile.profile_file import profile_path, read_profile

TARGET = 0.05
WARM_UP = 2
ONE_THREAD = ("devices.local.threads=1", "hosts.count=1")


@dataclass(frozen=True)
class Compared:
    """A range of units: what its shard took, and what the profile says; of one thread, so CPU seconds are seconds."""

    first: int
    last: int
    measured_s: float
    measured_cpu_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1

    @property
    def cpu_error(self) -> float:
        return self.predicted_s / self.measured_cpu_s - 1


def run_edgeprofile(model: str, folder: Path) -> float:
    """Seconds that it took."""
    words = [f"model={model}", *ONE_THREAD, f"profile.folder={folder}", "profile.microbatches=[1,8]"]
    begin = time.monotonic()
    subprocess.run([sys.executable, "-I", "-m", "edgecompile.commands.profile_command", *words], check=True)
    return time.monotonic() - begin


def random_ranges(chain: Chain, count: int, seed: int) -> list[tuple[int, int]]:
    """From a few units to the whole model, each with a tenth of its work at least."""
    generator = random.Random(seed)
    cuts = [boundary.index for boundary in chain.boundaries if boundary.cuttable]
    total = sum(unit.flops for unit in chain.units)
    found: list[tuple[int, int]] = []
    while len(found) < count:
        begin, end = sorted(generator.sample(cuts, 2))
        if sum(unit.flops for unit in chain.units[begin:end]) >= 0.1 * total:
            found.append((begin, end - 1))
    return found


def stage_inputs(chain: Chain, first: int, examples: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    inputs = {tensor.node: value for tensor, value in zip(chain.boundaries[0].tensors, examples, strict=True)}
    values = []
    for tensor in chain.boundaries[first].tensors:
        dtype = getattr(torch, tensor.dtype)
        fresh = torch.randn(tensor.shape) if dtype is torch.float32 else torch.ones(tensor.shape, dtype=dtype)
        values.append(inputs[tensor.node].clone() if tensor.node in inputs else fresh)
    return tuple(values)


def as_a_rank_loads(path: Path) -> Any:
    extra = {ROWS_RECORD: ""}
    module = torchscript.load(path, extra=extra)
    return prepack_traced(module, rows_in(extra[ROWS_RECORD])) if pays_here("auto") else module


def time_ranges(
    chain: Chain, ranges: Sequence[tuple[int, int]], examples: Sequence[torch.Tensor], rounds: int
) -> list[tuple[float, float]]:
    """Median seconds on the wall and of the CPU of each range as a shard."""
    walls: list[list[float]] = [[] for _ in ranges]
    cpus: list[list[float]] = [[] for _ in ranges]
    with tempfile.TemporaryDirectory(prefix="edgebench-") as folder:
        loaded: list[Any] = []
        for first, last in ranges:
            inputs = stage_inputs(chain, first, examples)
            shard = write_shard(chain, first, last, Path(folder), inputs)
            loaded.append((as_a_rank_loads(shard.path), inputs))
            shard.path.unlink(missing_ok=True)
    with torch.inference_mode():
        for number in range(WARM_UP + rounds):
            for index, (module, values) in enumerate(loaded):
                begin, begin_cpu = time.perf_counter(), time.process_time()
                module(*values)
                if number >= WARM_UP:
                    walls[index].append(time.perf_counter() - begin)
                    cpus[index].append(time.process_time() - begin_cpu)
    return [(statistics.median(wall), statistics.median(cpu)) for wall, cpu in zip(walls, cpus, strict=True)]


def compare(model: str, microbatch: int, folder: Path, args: argparse.Namespace) -> list[Compared]:
    words = [f"model={model}", *ONE_THREAD, "profile=measured", f"profile.folder={folder}", f"microbatch={microbatch}"]
    conf = compose(words)
    spec = model_of(conf.model)
    module = build_model(spec, conf.seed)
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
    examples = example_inputs(spec, golden_inputs(spec, module, conf.seed), microbatch)
    chain = chain_of(flat, spec, examples, capture_of(conf))
    profile = make_profile(chain, cluster_of(conf), profile_of(conf))
    ranges = random_ranges(chain, args.ranges, args.seed)
    found = []
    call_s = profile.wires["local"].call_s  # type: ignore[attr-defined]
    unit_s = profile.unit_s["local"]
    for (first, last), (wall_s, cpu_s) in zip(ranges, time_ranges(chain, ranges, examples, args.rounds), strict=True):
        sum_s = sum(unit_s[first : last + 1])
        found.append(Compared(first, last, wall_s, cpu_s, call_s + sum_s))
    return found


def tell(model: str, microbatch: int, measured: Sequence[int], rows: Sequence[Compared]) -> bool:
    how = "measured" if microbatch in measured else f"between {measured[0]} and {measured[-1]}"
    print(f"{model}, microbatch {microbatch} ({how})")
    for row in rows:
        print(
            f"  units {row.first:>3}-{row.last:<3}  shard {row.measured_s * 1e3:9.2f} ms (CPU "
            f"{row.measured_cpu_s * 1e3:9.2f})  sum {row.predicted_s * 1e3:9.2f} ms  {row.error:+6.1%} "
            f"(CPU {row.cpu_error:+6.1%})"
        )
    worst = max(rows, key=lambda row: abs(row.error))
    worst_cpu = max(rows, key=lambda row: abs(row.cpu_error))
    met = abs(worst.error) <= TARGET
    print(
        f"  worst: units {worst.first}-{worst.last} {worst.error:+.1%}; of the CPU {worst_cpu.cpu_error:+.1%}; target "
        f"{TARGET:.0%}: {'met' if met else 'MISSED'}"
    )
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_base", "deit_small"])
    parser.add_argument("--microbatches", type=int, nargs="+", default=[1, 8, 4])
    parser.add_argument("--ranges", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="profiles that are there already; default: measure them now")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    met = []
    with tempfile.TemporaryDirectory(prefix="edgebench-") as own:
        folder = args.folder or Path(own)
        for model in args.models:
            if args.folder is None:
                print(f"{model}: edgeprofile took {run_edgeprofile(model, folder):.0f} s", flush=True)
            measured = [item.microbatch for item in read_profile(profile_path(folder, "local", model)).microbatches]
            keep_freed_memory()
            for microbatch in args.microbatches:
                met.append(tell(model, microbatch, measured, compare(model, microbatch, folder, args)))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
