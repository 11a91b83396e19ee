"""The agent's folders, where several processes have the same ones."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import launch_plans

from edgecompile.contract.files.atomic_files import file_sha256
from edgelaunch.boards.agent.plan_folders import KEPT, PlanFolders

NUM_RANKS, NUM_TIMES = 8, 8


def keep(folders: PlanFolders, plan: Path) -> str:
    data, sha256 = plan.read_bytes(), file_sha256(plan)
    folders.keep_plan(sha256, io.BytesIO(data), len(data))
    return sha256


def test_ranks_with_one_home_may_keep_a_plan_at_once(tmp_path: Path) -> None:
    """A home on a file server, or two ranks on one machine."""
    plan = launch_plans.floats(tmp_path / "plan", 2).path
    for number in range(NUM_TIMES):
        ranks = [PlanFolders(tmp_path / f"state-{number}") for _ in range(NUM_RANKS)]
        errors: list[BaseException] = []
        ready = threading.Barrier(NUM_RANKS)

        def one(rank: PlanFolders, ready: threading.Barrier = ready, errors: list[BaseException] = errors) -> None:
            ready.wait()
            try:
                sha256 = keep(rank, plan)
                assert rank.plan_path(sha256).read_bytes() == plan.read_bytes()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors


def test_the_newest_jobs_are_kept_and_each_begins_empty(tmp_path: Path) -> None:
    folders = PlanFolders(tmp_path)
    for number in range(KEPT + 2):
        (folders.job(f"job-{number}") / "left").write_text("of this job")
    assert len(list((tmp_path / "jobs").iterdir())) == KEPT
    assert list(folders.job(f"job-{KEPT + 1}").iterdir()) == []
