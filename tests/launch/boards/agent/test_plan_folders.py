"""The agent's folders, where several processes have the same ones."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import launch_plans
import pytest

from edgecompile.contract.files.atomic_files import file_sha256
from edgelaunch.boards.agent.plan_folders import KEPT, PlanFolders


def keep(folders: PlanFolders, plan: Path) -> str:
    data, sha256 = plan.read_bytes(), file_sha256(plan)
    folders.keep_plan(sha256, io.BytesIO(data), len(data))
    return sha256


def test_another_rank_with_the_same_home_keeps_the_plan_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home on a file server, or two ranks on one machine: nothing fails, and what the other has fetched stays."""
    plan = launch_plans.floats(tmp_path / "plan", 2).path
    folders = PlanFolders(tmp_path / "state")
    for number in range(KEPT):
        (tmp_path / "state" / "plans" / str(number)).mkdir()
    theirs = folders.plan_path(file_sha256(plan)).parent / "shards" / "1.pt"
    remove = shutil.rmtree

    def meanwhile(folder: Path, ignore_errors: bool = False) -> None:
        remove(folder, ignore_errors)
        theirs.parent.mkdir(parents=True)
        theirs.write_text("a shard")

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    sha256 = keep(folders, plan)
    assert folders.plan_path(sha256).read_bytes() == plan.read_bytes()
    assert theirs.read_text() == "a shard"


def test_the_newest_jobs_are_kept_and_each_begins_empty(tmp_path: Path) -> None:
    folders = PlanFolders(tmp_path)
    for number in range(KEPT + 2):
        (folders.job(f"job-{number}") / "left").write_text("of this job")
    assert len(list((tmp_path / "jobs").iterdir())) == KEPT
    assert list(folders.job(f"job-{KEPT + 1}").iterdir()) == []
