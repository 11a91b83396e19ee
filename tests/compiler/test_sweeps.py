"""Hydra multirun: a plan for each point, one table of this sweep, failures as rows."""

from __future__ import annotations

import json
from pathlib import Path

from compiler_helpers import command, hand_written

from edgecompile.plan import read_plan


def test_a_sweep_writes_plans_and_names_the_best(tmp_path: Path) -> None:
    done = command("edgecompile.cli", "-m", *hand_written("Tied"), "microbatch=1,2,0,4", folder=tmp_path,
                   path=Path(__file__).parent)  # fmt: skip
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "outputs" / "multirun"
    plans = {job: read_plan(sweep / str(job) / "plan.yaml") for job in (0, 1, 3)}
    assert [plan.model.microbatch for plan in plans.values()] == [1, 2, 4]
    assert not (sweep / "2" / "plan.yaml").exists()
    best = max(plans, key=lambda job: plans[job].predicted.throughput_items_per_s)
    assert f"best: job {best} (" in done.stdout
    assert "job 2: microbatch: 0 does not do" in done.stdout
    manifest = json.loads((sweep / "manifest.json").read_text())
    assert [job["plan"] for job in manifest["jobs"]] == [f"{job}/plan.yaml" for job in range(4)]


def test_an_earlier_sweeps_points_are_not_in_the_table(tmp_path: Path) -> None:
    for points in ("1,2,3", "4"):
        done = command("edgecompile.cli", "-m", *hand_written("Tied"), f"microbatch={points}", folder=tmp_path,
                       path=Path(__file__).parent)  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "outputs/multirun/manifest.json").read_text())["jobs"]) == 1


def test_a_sweep_without_a_plan_fails(tmp_path: Path) -> None:
    done = command("edgecompile.cli", "-m", *hand_written("Tied"), "microbatch=0,-1", folder=tmp_path,
                   path=Path(__file__).parent)  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
