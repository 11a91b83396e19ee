"""Damaged and hostile files, over every reader of the compiler: each works, or ends in a UserError."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fuzzing import HOSTILE, num_refused
from safetensors.torch import save_file
from torch import nn

from edgecompile.commands.compile_command import compose
from edgecompile.commands.hydra_app import run_app
from edgecompile.config.cluster_spec import cluster_of
from edgecompile.config.model_spec import model_of
from edgecompile.contract.run_record import read_run
from edgecompile.explore.report import read_sweep
from edgecompile.measure.partial import PartialFile
from edgecompile.measure.rounds import Measured, Sample
from edgecompile.models.weights import load_weights
from edgecompile.planning.pipeedge_files import Request, read_files
from edgecompile.profile.profile_file import read_profile

NUM_MUTATIONS = 130
NUM_COMPOSED = 40

RUN = {
    "version": 1, "plan_sha256": "0" * 64, "model": "m", "microbatch": 1, "began": "2026-01-01T00:00:00+00:00",
    "num_items": 3, "elapsed_s": 1.0, "throughput_items_per_s": 3.0, "steady_items_per_s": None,
    "predicted_items_per_s": 3.0, "bottleneck": "stage 0", "predicted_bottleneck": "stage 0", "latency": None,
    "stages": [{"stage": 0, "rank": 0, "host": "h", "machine": "b", "units": [0, 1], "microbatches": 1,
                "compute_s": 0.1, "predicted_s": 0.1, "wait_input_s": 0.0, "wait_output_s": 0.0, "pack_s": 0.0,
                "busy": 1.0, "trace": [[1, 2, 3, 4, 5]]}],
    "links": [], "pauses_s": [], "rates": {"step_s": 0.1, "items": [3]},
}  # fmt: skip
SWEEP = {"jobs": [{"overrides": ["microbatch=1"], "error": None, "throughput_items_per_s": 3.0}]}
MODELS = {"tiny": {"layers": 2, "mem_MB": [1.0, 1.0], "parameters_in": 100, "parameters_out": [10, 1]}}
TYPES = {
    "fast": {"bw_Mbps": 1000, "mem_MB": 64, "model_profiles": {
        "tiny": [{"batch_size": 8, "dtype": "torch.float32", "time_s": [1.0, 1.0]}]}},
}  # fmt: skip
DEVICES = {"fast": ["f-0", "f-1"]}
COST = {"fixed_cpu_s": 1e-5, "each_cpu_s": 1e-9}
PROFILE = {
    "version": 1, "device": "core", "model": "tiny", "fingerprint": "0" * 64, "execution": "cpu", "dtype": "float32",
    "threads": 1, "busy_cores": 1, "date": "2026-01-01T00:00:00+00:00",
    "machine": {"name": "m", "processor": "p", "cores": 2, "memory_bytes": 10**9, "architecture": "x", "system": "s"},
    "versions": {"edgecompile": "0.1.0", "torch": "2", "python": "3"},
    "rates": {"matrix_flops_per_s": 1e9, "memory_bytes_per_s": 1e9, "pack": COST}, "runtime_bytes": 10**6,
    "messages": {"send": COST, "receive": COST},
    "wires": [{"format": "int8", "scale": "item", "clipping": True, "encode": COST, "decode": COST}],
    "units": ["a", "b"],
    "microbatches": [{
        "microbatch": 1, "rounds": 3, "disturbed": 0.0, "call_s": 0.0, "correction": 1.0,
        "checks": [{"units": [0, 1], "measured_s": 1.0, "predicted_s": 1.0}], "wall_s": [1.0, 1.0],
        "wall_q1_s": [1.0, 1.0], "wall_q3_s": [1.0, 1.0], "cpu_s": [1.0, 1.0], "activation_bytes": [4, 4]}],
}  # fmt: skip
SIZED_PROFILE = PROFILE | {
    "version": 2,
    "microbatches": [{**PROFILE["microbatches"][0], "extents": {"length": extent}} for extent in (4, 16)],
}
HOSTS = b"""\
network: {model: pairwise, latency: 100us, pairs: {"a->b": {bandwidth: 10Mbps, latency: 1ms}}}
members:
  a: {device: jetson_orin_nx, address: 10.0.0.1, bandwidth: 100Mbps, memory: 2GB}
  b: {device: jetson_orin_nano, address: 10.0.0.2, bandwidth: 100Mbps, cpu_share: 0.5}
"""
BOARDS = b"""\
defaults:
  - /board@local: local
  - _self_
own: {memory: 4GB, threads: 4, peak: {float32: 10 GFLOPS}, memory_bandwidth: 5GB/s, execution: cpu, network: 1Gbps}
local: {cpu_share: 0.5, launch_overhead: 12us}
"""
MODEL = b"""\
name: tiny
build:
  _target_: edgecompile.models.from_transformers
  architecture: ViTForImageClassification
  config: {hidden_size: 16, num_hidden_layers: 2}
inputs: {pixel_values: {shape: [3, 32, 32], dtype: float32}}
"""
Reader = tuple[bytes, str, Callable[[Path], object]]


def text(value: object) -> bytes:
    return yaml.safe_dump(json.loads(json.dumps(value))).encode()  # no aliases


def pipeedge(folder: Path, **own: Path) -> None:
    for name, value in (("models", MODELS), ("types", TYPES), ("devices", DEVICES)):
        (folder / f"{name}.yml").write_bytes(text(value))
    paths = {name: own.get(name, folder / f"{name}.yml") for name in ("models", "types", "devices")}
    read_files(Request(model="tiny"), **paths)


def layer_bytes(folder: Path) -> bytes:
    save_file(nn.Linear(3, 2).state_dict(), folder / "seed.safetensors")
    return (folder / "seed.safetensors").read_bytes()


def pickled_bytes() -> bytes:
    memory = io.BytesIO()
    torch.save({"state_dict": nn.Linear(3, 2).state_dict(), "epoch": 3}, memory)
    return memory.getvalue()


def npz_bytes() -> bytes:
    memory = io.BytesIO()
    np.savez(memory, cls=np.zeros((1, 1, 16), np.float32))
    return memory.getvalue()


class GoogleLike(nn.Module):
    """Has one parameter of a ViT classifier, which is what Google's files are read for."""

    def state_dict(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:  # type: ignore[override]
        return {"vit.embeddings.cls_token": torch.zeros(1, 1, 16)}


def load_google(path: Path) -> None:
    load_weights(GoogleLike(), str(path))


def load_index(path: Path) -> None:
    load_weights(nn.Linear(3, 2), str(path.parent))


def read_partial(path: Path) -> None:
    """A measurement that cannot be resumed starts over."""
    partial = PartialFile(path, {"threads": 1})
    for key in ("1", "2"):
        partial.measured(key)
        partial.is_complete(key)
    partial.keep({"1": {"s": Measured(1, [Sample(1.0, 1.0)])}}, complete=True)


def partial_bytes() -> bytes:
    spans = {"s": Measured(2, [Sample(1.0, 1.0)], [[Sample(0.5, 0.5)]], 7).to_plain()}
    return json.dumps({"settings": {"threads": 1}, "microbatches": {"1": {"complete": True, "spans": spans}}}).encode()


def readers(folder: Path) -> dict[str, Reader]:
    """By name: valid bytes, a file name, and what reads the file."""
    return {
        "profile": (text(PROFILE), "core-m.yaml", read_profile),
        "sized profile": (text(SIZED_PROFILE), "core-m.yaml", read_profile),
        "run": (json.dumps(RUN).encode(), "run.json", read_run),
        "sweep": (json.dumps(SWEEP).encode(), "manifest.json", lambda path: read_sweep(path.parent)),
        "pipeedge models": (text(MODELS), "x.yml", lambda path: pipeedge(folder, models=path)),
        "pipeedge types": (text(TYPES), "x.yml", lambda path: pipeedge(folder, types=path)),
        "pipeedge devices": (text(DEVICES), "x.yml", lambda path: pipeedge(folder, devices=path)),
        "safetensors": (layer_bytes(folder), "x.safetensors", lambda path: load_weights(nn.Linear(3, 2), str(path))),
        "pt": (pickled_bytes(), "x.pt", lambda path: load_weights(nn.Linear(3, 2), str(path))),
        "npz": (npz_bytes(), "x.npz", load_google),
        "index": (b'{"weight_map": {"weight": "model.safetensors", "bias": "model.safetensors"}}',
                  "model.safetensors.index.json", load_index),
        "partial": (partial_bytes(), "x.partial", read_partial),
    }  # fmt: skip


NAMES = ("profile", "sized profile", "run", "sweep", "pipeedge models", "pipeedge types", "pipeedge devices",
         "safetensors", "pt", "npz", "index", "partial")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_end_in_one_kind_of_error(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "others"
    folder.mkdir()
    seed, file_name, read = readers(folder)[name]
    path = tmp_path / "own" / file_name
    path.parent.mkdir()
    (path.parent / "model.safetensors").write_bytes(layer_bytes(folder))
    path.write_bytes(seed)
    read(path)
    refused = num_refused(seed, NUM_MUTATIONS, path, read)
    assert refused or name == "partial"
    assert not list(tmp_path.rglob("pwned*"))


@pytest.mark.slow
@pytest.mark.parametrize(("group", "seed"), [("hosts", HOSTS), ("devices", BOARDS), ("model", MODEL)])
def test_damaged_configs_end_in_one_kind_of_error(tmp_path: Path, group: str, seed: bytes) -> None:
    path = tmp_path / group / "own.yaml"
    path.parent.mkdir()

    def composed() -> None:
        chosen = {"hosts": ["devices=jetson_cluster"], "devices": ["hosts=local"], "model": []}[group]
        conf = compose([f"hydra.searchpath=[file://{tmp_path}]", *chosen, f"{group}=own"])
        model_of(conf.model)
        cluster_of(conf)

    path.write_bytes(seed)
    composed()
    refused = num_refused(seed, NUM_COMPOSED, path, lambda path: run_app(composed))
    assert refused >= len(HOSTILE) / 2
    assert not list(tmp_path.rglob("pwned*"))
