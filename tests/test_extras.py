"""A rank installs without what compiling needs; who compiles without it is told what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LACKING = ("hydra", "omegaconf", "transformers", "matplotlib", "prometheus_client", "sklearn")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which those packages cannot be imported, in processes that a rank starts either."""
    lines = [f"sys.modules[{name!r}] = None" for name in LACKING]
    (tmp_path / "sitecustomize.py").write_text("\n".join(["import sys", *lines]) + "\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def call(environ: dict[str, str], command: str, *words: object) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name(command)
    return subprocess.run([script, *map(str, words)], capture_output=True, text=True, timeout=120, env=environ)


def test_a_rank_needs_none_of_them(bare: dict[str, str], tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent / "launch"))
    try:
        import launch_plans
    finally:
        sys.path.pop(0)
    written = launch_plans.floats(tmp_path / "plan", num_stages=2)
    done = call(bare, "edgelaunch", written.path, "--local", "--verify")
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout
    assert call(bare, "edgelaunch", "doctor", written.path, "--local").returncode == 0
    done = call(bare, "edgelaunch", written.path, "--local", "--metrics-port", 9400)
    assert done.returncode == 2
    assert "edgecompile[metrics]" in done.stderr
    assert call(bare, "edgeplan", "show", written.path).returncode == 0
    for command in ("simulate", "report"):  # these want rates, which this plan lacks
        done = call(bare, "edgeplan", command, written.path)
        assert done.returncode == 2
        assert "host-0's interface is unknown" in done.stderr


@pytest.mark.parametrize("command", ["edgecompile", "edgeprofile"])
def test_who_compiles_without_it_is_told(bare: dict[str, str], command: str) -> None:
    done = call(bare, command, "model=deit_tiny")
    assert done.returncode == 2
    assert "edgecompile[compile]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
