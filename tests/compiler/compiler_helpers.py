"""What the compiler's tests share: running installed commands, schedules alone, and the types of fixtures."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from edgecompile.commands.compile_command import compose
from edgecompile.config.model_spec import model_of
from edgecompile.config.request import capture_of, request_of
from edgecompile.config.schema import Conf
from edgecompile.contract.plan import Plan
from edgecompile.frontend.chain.units import Chain
from edgecompile.partition.planning_costs import planning_inputs
from edgecompile.partition.stages import partition
from edgecompile.planning.problem import Schedule
from edgecompile.profile.analytic import analytic_profile
from edgecompile.terminal.console import steps

DEADLINE_S = 240

Compile = Callable[..., Plan]
Command = Callable[..., subprocess.CompletedProcess[str]]

HAND_WRITTEN = {
    "Forked": "{x: {shape: [6, 24], dtype: float32}, ids: {shape: [6], dtype: int64, high: 9}}",
    "Tied": "{ids: {shape: [7], dtype: int64}}",
    "InPlace": "{x: {shape: [8], dtype: float32}}",
    "Convolutions": "{image: {shape: [3, 12, 12], dtype: float32}}",
    "Encoder": "{x: {shape: [5, 16], dtype: float32}, mask: {shape: [5], dtype: int64}}",
}
"""The inputs of the modules in hand_written.py that can be compiled."""


def hand_written(name: str) -> tuple[str, ...]:
    """The overrides that choose a module of hand_written.py."""
    return "model=custom", f"model.build._target_=hand_written.{name}", f"model.inputs={HAND_WRITTEN[name]}"


def command(
    module: str, *arguments: str, folder: Path, deadline_s: float = DEADLINE_S, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs an installed command in a folder of its own; `path` is put on the other process's PYTHONPATH."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=deadline_s,
        stdin=subprocess.DEVNULL,
    )


def compile_into(folder: Path, *overrides: str) -> Plan:
    """Compiles these overrides into `folder`, in this process; by data sheets, unless they say otherwise."""
    from edgecompile.pipeline import compile_model

    sheets = [] if any(word.startswith("profile") for word in overrides) else ["profile=analytic"]
    return compile_model(compose([*sheets, *overrides, f"output_dir={folder}"]), steps)


TINY_VIT = (
    "model=transformers",
    "model.name=tiny_vit",
    "model.build.architecture=ViTForImageClassification",
    "+model.build.config={hidden_size: 16, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 32, "
    "image_size: 32, patch_size: 8}",
    "model.inputs={pixel_values: {shape: [3, 32, 32], dtype: float32}}",
)
"""Four equal blocks, of which the last computes one token alone."""

SMALL_DEIT = (
    "model=deit_tiny",
    "++model.build.config={hidden_size: 24, intermediate_size: 48, num_labels: 5, image_size: 32}",
    "model.inputs.pixel_values.shape=[3,32,32]",
)
"""deit_tiny with all its blocks and units, and little work in them."""


def captured_chain(overrides: Sequence[str], microbatch: int | None = None) -> tuple[Chain, tuple[torch.Tensor, ...]]:
    """The units of the model that these overrides describe, and one microbatch of its inputs."""
    from edgecompile.frontend.capture.flat_model import FlatModel
    from edgecompile.frontend.chain import build_chain as front
    from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs
    from edgecompile.models import build_model

    conf = compose(list(overrides))
    spec = model_of(conf.model)
    module = build_model(spec, conf.seed)
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
    given = conf.microbatch if isinstance(conf.microbatch, int) else 1
    examples = example_inputs(spec, golden_inputs(spec, module, conf.seed), microbatch or given)
    return front.chain_of(flat, spec, examples, capture_of(conf)), examples


@functools.cache
def chain_of(*model: str) -> Chain:
    """The chain of a model, captured once a session."""
    return captured_chain(model)[0]


def schedule_of(model: tuple[str, ...], *overrides: str) -> Schedule:
    """The schedule alone, without shards and plan; `model` is what the chain depends on."""
    return scheduled(chain_of(*model), compose([*model, *overrides]))


def scheduled(chain: Chain, conf: Conf) -> Schedule:
    """What the compiler does between capture and shards, by the devices' figures."""
    request = request_of(conf)
    inputs = planning_inputs(request, chain, analytic_profile(chain, request.cluster.devices))
    return partition(inputs, chain, request.schedule)
