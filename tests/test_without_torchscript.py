"""Where torch.jit is absent or raises, shards are pt2 by themselves, and a run needs nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgecompile.contract.plan_file import read_plan

RAISING = """
import importlib.abc, sys

class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "safetensors" or name.startswith(("edgecompile", "edgelaunch")):
            _break()
        return None

def _break():
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "jit") or getattr(torch.jit, "broken", False):
        return
    def gone(*args, **kwargs):
        raise RuntimeError("torch.jit is gone")
    for name in ("trace", "script", "freeze", "load", "save", "optimized_execution", "CompilationUnit"):
        setattr(torch.jit, name, gone)
    torch.jit.broken = True

sys.meta_path.insert(0, _Finder())
"""
WIDE = "{hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 96, vocab_size: 200}"


def run(folder: Path, module: str, *words: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder / "broken")}
    done = subprocess.run([sys.executable, "-m", module, *map(str, words)], cwd=folder, env=environment,
                          capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_compile_and_launch_without_torchscript(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(RAISING)
    run(tmp_path, "edgecompile.commands.compile_command", "model=bert_base", f"++model.build.config={WIDE}",
        "hosts.count=2", "schedule=even", "microbatch=2", "model.dims={length: {max: 24}}")  # fmt: skip
    plan = read_plan(tmp_path / "outputs" / "plan.yaml")
    assert [stage.artifact for stage in plan.stages] == ["pt2", "pt2"]
    assert set(plan.model.dims) == {"batch", "length"}
    assert any("torch.jit is gone" in note for note in plan.notes)
    said = run(tmp_path, "edgelaunch", "outputs/plan.yaml", "--local", "--verify")
    assert "verified" in said
