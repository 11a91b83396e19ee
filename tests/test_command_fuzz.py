"""Damaged files through the installed commands: each works, or ends in one line and exit status 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fuzzing import HOSTILE, mutations

pytestmark = pytest.mark.slow

PER_COMMAND = 8
RECORD = {"version": 1, "plan_sha256": "0" * 64, "stages": []}
TYPES = {"fast": {"bw_Mbps": 1000, "mem_MB": 64, "model_profiles": {
    "tiny": [{"batch_size": 8, "dtype": "torch.float32", "time_s": [1.0, 1.0]}]}}}  # fmt: skip
MODELS = {"tiny": {"layers": 2, "mem_MB": [1.0, 1.0], "parameters_in": 100, "parameters_out": [10, 1]}}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(Path(__file__).parent / "launch"))
    try:
        import launch_plans
    finally:
        sys.path.pop(0)
    return launch_plans.floats(tmp_path_factory.mktemp("plan"), num_stages=2).path


def damaged(seed: bytes, path: Path, turn: int) -> Iterator[Path]:
    """The file with other bytes in it each time; every command gets others of the hostile ones."""
    half = PER_COMMAND // 2
    every = list(mutations(seed, len(HOSTILE) + half))
    hostile = [every[(turn + number * len(HOSTILE) // half) % len(HOSTILE)] for number in range(half)]
    for data in hostile + every[len(HOSTILE) :]:
        path.write_bytes(data)
        yield path


def check(command: str, *words: object, folder: Path) -> int:
    """The exit status, once what the command says has been looked at."""
    script = Path(sys.executable).with_name(command)
    done = subprocess.run(
        [script, *map(str, words)], capture_output=True, text=True, timeout=120, cwd=folder, stdin=subprocess.DEVNULL,
        env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode == 2:
        errors = [line for line in done.stderr.splitlines() if not line.startswith(("compiling", " "))]
        assert len(errors) == 1 or command == "edgelaunch", done.stderr  # whose ranks say how far they are
        assert errors[-1].startswith(f"{command}: "), done.stderr
    return done.returncode


CASES = ("edgeplan show", "edgeplan simulate", "edgeplan report", "edgelaunch", "edgelaunch doctor", "edgelaunch input",
         "edgesched", "edgecompile hosts")  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_damaged_files_end_in_one_line(plan: Path, tmp_path: Path, case: str) -> None:
    turn = 3 * CASES.index(case)
    own = tmp_path / "in"
    own.mkdir()
    before = {path: path.stat().st_mtime_ns for path in plan.parent.rglob("*")}
    statuses = list(run_case(case, plan, own, tmp_path, turn))
    assert len(statuses) == PER_COMMAND
    assert 2 in statuses
    assert not list(tmp_path.rglob("pwned*"))
    assert before == {path: path.stat().st_mtime_ns for path in plan.parent.rglob("*")}


def run_case(case: str, plan: Path, own: Path, folder: Path, turn: int) -> Iterator[int]:
    command, _, what = case.partition(" ")
    if what in ("show", "simulate", "doctor") or case == "edgelaunch":
        words = {"doctor": ["--local"], "": ["--local", "--items", "1"]}.get(what, [])
        for path in damaged(plan.read_bytes(), own / "plan.yaml", turn):
            yield check(command, *([what] if what else []), path, *words, folder=folder)
    elif what == "report":
        for path in damaged(json.dumps(RECORD).encode(), own / "run.json", turn):
            yield check(command, "report", plan, path, "--output", own / "report.html", folder=folder)
    elif what == "input":
        for path in damaged(b'[1, 2, 3, 4]\n{"x": [1, 2, 3, 4]}\n', own / "x.jsonl", turn):
            yield check(command, plan, "--local", "--input", path, "--run", own / "run.json", folder=folder)
    elif command == "edgesched":
        (own / "models.yml").write_text(yaml.safe_dump(MODELS))
        (own / "devices.yml").write_text("fast: [f-0]\n")
        for path in damaged(yaml.safe_dump(TYPES).encode(), own / "types.yml", turn):
            words = ["-m", "tiny", "-M", own / "models.yml", "-T", path, "-D", own / "devices.yml"]
            yield check(command, *words, folder=folder)
    else:
        (own / "hosts").mkdir()
        seed = b"members: {a: {device: local, address: 10.0.0.1}}\n"
        for _ in damaged(seed, own / "hosts" / "own.yaml", turn):
            words = [
                "--config-dir",
                own,
                "model=deit_tiny",
                "devices=local",
                "hosts=own",
                "model.build.architecture=No",
            ]
            yield check(command, *words, folder=folder)
