"""Runs on a machine with one GPU: deit_tiny and minilm, verified, and how fast they are in fp32 and fp16.

    python benchmarks/cuda.py                       # under five minutes
    python benchmarks/cuda.py --models deit_tiny --precisions fp32,fp16,bf16
    python benchmarks/cuda.py --device cpu          # the same without a GPU, to try the script

Each model runs on one rank on the GPU, and cut in the middle over a rank on the GPU and one on the CPU. Every item is
compared with the unsplit model's, as `edgelaunch --verify` does, before the times are taken. Ranks on loopback all run
on the CPU: so the ranks meet at this machine's own address, and share a secret.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import compile_plan
from processes import share_a_secret

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan

PLACES = {"gpu": ("gpu",), "gpu+cpu": ("gpu", "cpu")}
TIMEOUT_S = 120


def own_address() -> str:
    """An address of this machine that is not loopback; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostbyname(socket.gethostname())


def write_options(folder: Path, device: str) -> None:
    """A kind on the GPU and one on the CPU; the data host runs the first stage."""
    for name in ("devices", "hosts"):
        (folder / name).mkdir()
    (folder / "devices" / "gpu_cpu.yaml").write_text(
        f"defaults: [/board@gpu: local, /board@cpu: local, _self_]\ngpu: {{execution: {device}}}\ncpu: {{threads: 1}}\n"
    )
    (folder / "hosts" / "gpu_cpu.yaml").write_text("members: {gpu: {device: gpu}, cpu: {device: cpu, port: 29600}}\n")


def write_items(plan: Plan, path: Path, count: int) -> None:
    """Random items of the largest sizes."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for spec in plan.inputs:
        shape = (count, *spec.shape[1:])
        if "mask" in spec.name:
            arrays[spec.name] = np.ones(shape, spec.dtype)
        elif spec.dtype.startswith("int"):
            high = 2 if "type" in spec.name else 1000
            arrays[spec.name] = rng.integers(0, high, shape).astype(spec.dtype)
        else:
            arrays[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    np.savez(path, **arrays)


def launch(plan: Path, num_ranks: int, address: str, *words: str) -> dict[str, Any]:
    """A run of all ranks on this machine; what rank 0 says of it."""
    base = [sys.executable, "-I", "-m", "edgelaunch", str(plan), "--master", f"{address}:29500"]
    others = [
        subprocess.Popen([*base, "--rank", str(rank)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for rank in range(1, num_ranks)
    ]
    done = subprocess.run([*base, "--rank", "0", "--json", *words], capture_output=True, text=True, timeout=TIMEOUT_S,
                          check=False)  # fmt: skip
    errors = [done.stderr, *(other.communicate(timeout=TIMEOUT_S)[1] for other in others)]
    if done.returncode:
        raise SystemExit("\n".join(errors))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(model: str, place: str, precision: str, folder: Path, options: argparse.Namespace) -> None:
    ranks = PLACES[place]
    words = ["--config-dir", str(folder / "options"), f"model={model}", "devices=gpu_cpu", f"precision={precision}",
             f"hosts.count={len(ranks)}", "schedule=even", f"microbatch={options.microbatch}", "reference=true",
             "accuracy.budget=0.02"]  # fmt: skip
    path = compile_plan(folder / f"{model}-{place}-{precision}", *words)
    plan = read_plan(path)
    items = path.parent / "items.npz"
    write_items(plan, items, options.items)
    address = own_address()
    verified = launch(path, len(ranks), address, "--verify", "--input", str(items))
    begin = time.monotonic()
    timed = launch(path, len(ranks), address, "--items", str(options.items * 4))
    error = max(plan.accuracy.error.values()) if plan.accuracy is not None else 0.0
    print(
        f"{model:10} {place:8} {precision:5} {timed['steady_items_per_s']:9.0f} items/s in steady state, verified: "
        f"largest difference {verified['largest_difference']:.2g}, squared error of the precision {error:.2g} "
        f"({time.monotonic() - begin:.0f} s)",
        flush=True,
    )


def measure_text(model: str, place: str, precision: str, folder: Path, options: argparse.Namespace) -> None:
    """Golden texts and scores, then prompts of random tokens."""
    ranks = PLACES[place]
    words = ["--config-dir", str(folder / "options"), f"model={model}", "devices=gpu_cpu", f"precision={precision}",
             f"hosts.count={len(ranks)}", "schedule=even"]  # fmt: skip
    path = compile_plan(folder / f"{model}-{place}-{precision}", *words)
    prompts, address = path.parent / "prompts.jsonl", own_address()
    rng = np.random.default_rng(0)
    with prompts.open("w") as file:
        for _ in range(16):
            line = {"tokens": rng.integers(3, 1000, 128).tolist(), "max_tokens": 64, "ignore_end": True}
            file.write(json.dumps(line) + "\n")
    begin = time.monotonic()
    verified = launch(path, len(ranks), address, "--verify")
    output = path.parent / "answers.jsonl"
    timed = launch(path, len(ranks), address, "--input", str(prompts), "--output", str(output))
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(answers) == 16, f"{len(answers)} answers of 16"
    assert all("error" not in answer for answer in answers), answers
    print(f"{model:10} {place:8} {precision:5} verified: {verified}; 16 prompts: {timed} "
          f"({time.monotonic() - begin:.0f} s)", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default="deit_tiny,minilm")
    parser.add_argument("--texts", default="", help="language models, as in smollm2_135m: in fp32 alone")
    parser.add_argument("--precisions", default="fp32,fp16")
    parser.add_argument("--places", default=",".join(PLACES))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--microbatch", type=int, default=16)
    parser.add_argument("--items", type=int, default=512)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"cuda.py: torch {torch.__version__} finds no GPU here: --device cpu tries the script", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name(0) if options.device == "cuda" else "no GPU"
    print(f"{name}, torch {torch.__version__}, messages of {options.microbatch} items", flush=True)
    share_a_secret()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "options").mkdir()
        write_options(folder / "options", options.device)
        for model in filter(None, options.texts.split(",")):
            for place in options.places.split(","):
                measure_text(model, place, "fp32", folder, options)
        for model in filter(None, options.models.split(",")):
            for place in options.places.split(","):
                for precision in options.precisions.split(","):
                    measure(model, place, precision, folder, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
