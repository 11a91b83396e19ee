"""What the compiler's tests share: running installed commands, and the type of the compile_here fixture."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from edgecompile.capture import FlatModel
from edgecompile.cli import compose
from edgecompile.domain import model_of
from edgecompile.front import chain_of
from edgecompile.models import build_model
from edgecompile.plan import Plan
from edgecompile.reference import example_inputs, golden_inputs
from edgecompile.units import Chain

DEADLINE_S = 240

Compile = Callable[..., Plan]


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


TINY_VIT = (
    "model=transformers",
    "model.name=tiny_vit",
    "model.build.architecture=ViTForImageClassification",
    "+model.build.config={hidden_size: 16, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 32, "
    "image_size: 32, patch_size: 8}",
    "model.inputs={pixel_values: {shape: [3, 32, 32], dtype: float32}}",
)
"""Four equal blocks, of which the last computes one token alone."""


def captured_chain(overrides: Sequence[str], microbatch: int) -> tuple[Chain, tuple[torch.Tensor, ...]]:
    """The units of the model that these overrides describe, and one microbatch of its inputs."""
    conf = compose(list(overrides))
    spec = model_of(conf.model)
    module = build_model(spec, conf.seed)
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
    examples = example_inputs(spec, golden_inputs(spec, module, conf.seed), microbatch)
    return chain_of(flat, spec, examples, conf), examples
