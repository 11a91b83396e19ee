"""A rank installs without what compiling needs; who compiles without it is told what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "launch"))
import launch_plans

pytestmark = pytest.mark.slow

sys.path.pop(0)

LACKING = ("hydra", "omegaconf", "transformers", "matplotlib", "prometheus_client", "sklearn", "zeroconf",
           "uvicorn")  # fmt: skip


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory: pytest.TempPathFactory) -> launch_plans.Written:
    return launch_plans.floats(tmp_path_factory.mktemp("plan"), num_stages=2)


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which those packages cannot be imported, in processes that a rank starts either."""
    lines = [f"sys.modules[{name!r}] = None" for name in LACKING]
    (tmp_path / "sitecustomize.py").write_text("\n".join(["import sys", *lines]) + "\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def call(environ: dict[str, str], command: str, *words: object) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name(command)
    return subprocess.run([script, *map(str, words)], capture_output=True, text=True, timeout=120, env=environ)


@pytest.mark.slow
def test_a_rank_needs_none_of_them(bare: dict[str, str], two_stages: launch_plans.Written) -> None:
    written = two_stages
    done = call(bare, "edgelaunch", written.path, "--local", "--verify")
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout
    assert call(bare, "edgelaunch", "doctor", written.path, "--local").returncode == 0
    done = call(bare, "edgelaunch", written.path, "--local", "--metrics-port", 9400)
    assert done.returncode == 2
    assert "edgecompile[metrics]" in done.stderr
    done = call(bare, "edgelaunch", written.path, "--local", "--web", 9401)
    assert done.returncode == 2
    assert "edgecompile[serve]" in done.stderr
    for words in (["boards"], ["agent"]):
        done = call({**bare, "EDGELAUNCH_SECRET": "sixteen letters or more"}, "edgelaunch", *words)
        assert done.returncode == 2
        assert "edgecompile[boards]" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert call(bare, "edgeplan", "show", written.path).returncode == 0
    for command in ("simulate", "report"):  # these want rates, which this plan lacks
        done = call(bare, "edgeplan", command, written.path)
        assert done.returncode == 2
        assert "host-0's interface is unknown" in done.stderr


TORCHES = {
    "missing": ("raise ModuleNotFoundError('No module named torch', name='torch')", "torch is not installed here"),
    "of another system": (
        "raise OSError('libgomp.so.1: cannot open shared object file')",
        "(libgomp.so.1: cannot open",
    ),
    "of another Python": ("from torch import _C", "torch cannot be imported here (cannot import name '_C'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("torch", TORCHES)
def test_without_a_torch_that_works(tmp_path: Path, two_stages: launch_plans.Written, torch: str) -> None:
    (tmp_path / "torch").mkdir()
    code, said = TORCHES[torch]
    (tmp_path / "torch" / "__init__.py").write_text(code)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for words in (["--local"], ["--rank", "0", "--master", "127.0.0.1:29999"]):
        done = call(environ, "edgelaunch", two_stages.path, *words)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = call(environ, "edgelaunch", "doctor", two_stages.path, "--local")
    assert done.returncode == 2
    assert done.stderr == "edgelaunch: error: 1 check failed (torch): see the table\n"
    assert call(environ, "edgeplan", "show", two_stages.path).returncode == 0
    if torch == "missing":
        done = call(environ, "edgecompile", "model=deit_tiny", f"output_dir={tmp_path}/out")
        assert done.returncode == 2
        assert "edgecompile: torch is not installed, and compiling needs it" in done.stderr.splitlines()[-1]
        assert "Error executing job" not in done.stderr


@pytest.mark.parametrize("command", ["edgecompile", "edgeprofile"])
def test_who_compiles_without_it_is_told(bare: dict[str, str], command: str) -> None:
    done = call(bare, command, "model=deit_tiny")
    assert done.returncode == 2
    assert "edgecompile[compile]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
