"""What the compiler's tests share: running installed commands, schedules alone, and the types of fixtures."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edgecompile.cli import compose
from edgecompile.console import steps
from edgecompile.domain import cluster_of, model_of
from edgecompile.partition import partition
from edgecompile.plan import Plan
from edgecompile.profile import analytic_profile
from edgecompile.schedule import Schedule
from edgecompile.units import Chain

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
    """Compiles these overrides into `folder`, in this process."""
    from edgecompile.pipeline import compile_model

    return compile_model(compose([*overrides, f"output_dir={folder}"]), steps)


SMALL_DEIT = (
    "model=deit_tiny",
    "++model.build.config={hidden_size: 24, intermediate_size: 48, num_labels: 5, image_size: 32}",
    "model.inputs.pixel_values.shape=[3,32,32]",
)
"""deit_tiny with all its blocks and units, and little work in them."""


@functools.cache
def chain_of(*model: str) -> Chain:
    """The chain of a model, captured once a session."""
    from edgecompile.capture import FlatModel, capture
    from edgecompile.models import build_model
    from edgecompile.passes import run_passes
    from edgecompile.reference import example_inputs, golden_inputs
    from edgecompile.units import build_chain

    conf = compose(model)
    spec = model_of(conf.model)
    module = build_model(spec, conf.seed)
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
    examples = example_inputs(spec, golden_inputs(spec, module, conf.seed), conf.microbatch)
    return build_chain(run_passes(capture(flat, spec, examples, conf.capture), examples, conf.passes))


def schedule_of(model: tuple[str, ...], *overrides: str) -> Schedule:
    """The schedule alone, without shards and plan; `model` is what the chain depends on."""
    conf = compose([*model, *overrides])
    chain, cluster = chain_of(*model), cluster_of(conf)
    return partition(chain, analytic_profile(chain, cluster.devices), cluster, conf)
