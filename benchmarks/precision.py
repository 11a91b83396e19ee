"""How much faster a model is in bf16 and int8 than in float32, one thread, the shards of all in one process in turns.

    python benchmarks/precision.py                                  # vit_base and bert_base, one item of 128 tokens
    python benchmarks/precision.py --models deit_small --microbatch 8
    sudo python benchmarks/precision.py --cluster                   # emulated hosts of unlike precisions (Linux, root)

What a user would pick instead is printed too: torch's own dynamic quantisation of the same model (x86: fbgemm's
kernels, one scale for all activations of a call, so that an item's result depends on the others of its message).
Errors are squares on the golden items over those of the model in float64, as in the plan.

With --cluster, deit_small is profiled in each precision on one core and compiled for three hosts of a quarter of this
core, one in fp32, one in bf16 and one of which precision=auto chooses, and for the same three in fp32. They run in
turns under `edgelaunch --emulate`, all on this core; printed are the throughputs in steady state, how far the
predictions are off, and the memory of each rank, predicted and at its peak. (Three hosts that take all of a core get
less than their shares, since the kernel's own work is paid of it: with 0.3 each, predictions are 6 % too high.)
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import fidelity
import torch
from commands import compile_plan, run
from processes import share_a_secret
from safetensors.torch import load_file

from edgecompile.commands.compile_command import compose
from edgecompile.config.model_spec import model_of
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution.opened_shard import open_stage
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.models import build_model

PRECISIONS = ("fp32", "bf16", "int8")
SHARE, ITEMS = 0.25, 160
FIXED = {
    "bert_base": "model.inputs={input_ids: {shape: [128], dtype: int64}, attention_mask: {shape: [128], dtype: int64}}"
}


def contender(plan: Plan, folder: Path) -> Callable[..., Any]:
    return open_stage(plan.stages[0], folder).prepacked()


def torchs_own(model: str, words: list[str]) -> Callable[..., Any]:
    conf = compose([f"model={model}", *words])
    spec = model_of(conf.model)
    module = build_model(spec, conf.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)
    return FlatModel(quantised, [item.name for item in spec.inputs], spec.outputs)


def seconds(run: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> float:
    begin = time.process_time()
    run(*inputs)
    return time.process_time() - begin


def compare(model: str, microbatch: int, rounds: int, folder: Path) -> None:
    words = [FIXED[model]] if model in FIXED else []
    runs: dict[str, Callable[..., Any]] = {}
    notes = {}
    for precision in PRECISIONS:
        path = compile_plan(folder / precision, f"model={model}", *words, "hosts.count=1", f"precision={precision}",
                            f"microbatch={microbatch}", "accuracy.budget=1")  # fmt: skip
        plan = read_plan(path)
        runs[precision] = contender(plan, path.parent)
        if plan.accuracy is not None:
            notes[precision] = ", ".join(f"{name} {error:.2g}" for name, error in plan.accuracy.error.items())
    golden = load_file(folder / "fp32" / plan.golden.file)
    inputs = tuple(golden[f"input.{spec.name}"][torch.arange(microbatch) % plan.golden.num_items]
                   for spec in plan.inputs)  # fmt: skip
    runs["torch's dynamic int8"] = torchs_own(model, words)
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for run in runs.values():
            for _ in range(3):
                run(*inputs)
        for turn in range(rounds):
            names = list(runs)
            for place in range(len(names)):
                name = names[(turn + place) % len(names)]
                times[name].append(seconds(runs[name], inputs))
    for name, found in times.items():
        ratios = [base / own for base, own in zip(times["fp32"], found, strict=True)]
        print(f"{model:10} microbatch {microbatch}  {name:21} {1e3 * median(found):8.1f} ms  {median(ratios):5.2f} "
              f"times as fast as fp32  {notes.get(name, '')}", flush=True)  # fmt: skip


def write_conf(folder: Path, name: str, precisions: Sequence[str]) -> Path:
    """A config folder whose hosts are shares of one core, each in its precision."""
    kinds = "".join(
        f"{kind}: {{threads: 1, cpu_share: {SHARE}, profile_of: core, precision: {precision}}}\n"
        for kind, precision in zip("abc", precisions, strict=True)
    )
    members = ", ".join(
        f"h{index}: {{device: {kind}, port: {29500 + index}, bandwidth: 1Gbps}}" for index, kind in enumerate("abc")
    )
    boards = ", ".join(f"/board@{kind}: local" for kind in "abc")
    for group, text in (
        ("devices", f"defaults: [{boards}, _self_]\n{kinds}"),
        ("hosts", f"network: {{model: host, latency: 100us}}\nmembers: {{{members}}}\n"),
    ):
        path = folder / "conf" / group / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "conf"


def cluster(model: str, microbatch: int, runs: int, folder: Path) -> None:
    share_a_secret()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of all that is started here, too
    profiles = f"profile.folder={folder / 'profiles'}"
    for precision in PRECISIONS:
        run("edgecompile.commands.profile_command", "--config-dir", fidelity.write_conf(folder), "devices=one_core",
            f"model={model}", profiles, f"profile.microbatches=[{microbatch}]", f"precision={precision}",
            )  # fmt: skip
    paths = {}
    for name, precisions in (("mixed", ("fp32", "bf16", "auto")), ("fp32", ("fp32",) * 3)):
        conf = write_conf(folder, name, precisions)
        paths[name] = compile_plan(folder / "plans" / name, "--config-dir", str(conf), f"devices={name}",
                                   f"model={model}", f"microbatch={microbatch}", "profile=measured",
                                   profiles)  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(runs):
        for name, path in paths.items():
            record = json.loads(run("edgelaunch", path, "--emulate", "--items", ITEMS, "--json"))
            rates[name].append(record["steady_items_per_s"])
    for name, path in paths.items():
        with fidelity.live(path) as live:
            live.burst()
            live.look_no_more()
        tell(name, live, rates[name])
    print(f"mixed over fp32: {median(rates['mixed']) / median(rates['fp32']):.2f} times as fast")


def tell(name: str, live: fidelity.LivePipeline, rates: Sequence[float]) -> None:
    plan, rate = live.plan, median(rates)
    predicted = plan.predicted.throughput_items_per_s
    stages = ", ".join(f"{stage.precision} on units {stage.units[0]}-{stage.units[1]}" for stage in plan.stages)
    print(f"{name}: {stages}\n  {rate:.1f} items/s, predicted {predicted:.1f} ({predicted / rate - 1:+.1%})")
    for stage in plan.stages:
        planned, peak = stage.predicted.memory_bytes, live.peaks[stage.rank]
        print(f"  rank {stage.rank} ({stage.precision}): {peak / 1e6:.0f} MB, predicted {planned / 1e6:.0f} MB")
    if plan.accuracy is not None:
        print(f"  squared error {plan.accuracy.error}, budget {plan.accuracy.budget:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_base", "bert_base"])
    parser.add_argument("--microbatch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cluster", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.cluster:
        with tempfile.TemporaryDirectory(prefix="edgebench-") as scratch:
            cluster("deit_small", args.microbatch, args.rounds, Path(scratch))
        return
    for model in args.models:
        with tempfile.TemporaryDirectory(prefix="edgebench-") as scratch:
            compare(model, args.microbatch, args.rounds, Path(scratch))


if __name__ == "__main__":
    main()
