"""Cores of ranks that share a machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch_harness import Running, rank_process
from launch_plans import Written

from edgelaunch.common.addresses import Address
from edgelaunch.process import cores
from edgelaunch.process.cores import available_cores, keep_to_cores, share_of_cores
from edgelaunch.request.parsers import parse_run
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.started_rank import RankSettings, request_of_rank

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="ranks are kept to cores on Linux alone")


def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, siblings: dict[int, str]) -> None:
    """A machine of these cores, and of each which threads are the same core's."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(siblings))
    monkeypatch.setattr(cores, "SIBLINGS", str(tmp_path / "{}"))
    for core, text in siblings.items():
        (tmp_path / str(core)).write_text(text + "\n")


@pytest.mark.parametrize(
    ("siblings", "num_ranks", "shares"),
    [
        ({0: "0", 1: "1"}, 2, [(0,), (1,)]),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, 2, [(0, 1), (2, 3)]),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, 2, [(0, 2), (1, 3)]),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, 2, [(0, 1), (2, 3)]),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, 3, [(0, 3), (1, 3), (2, 3)]),
        ({3: "3", 5: "5", 9: "9"}, 3, [(3,), (5,), (9,)]),
        ({0: "0", 1: "1"}, 3, [(), (), ()]),
        ({0: "0", 1: "1"}, 1, [()]),
        ({0: "", 1: "not a number"}, 2, [(0,), (1,)]),
    ],
)
def test_each_rank_has_cores_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, siblings: dict[int, str], num_ranks: int, shares: list[tuple[int]]
) -> None:
    on(monkeypatch, tmp_path, siblings)
    assert [share_of_cores(rank, num_ranks) for rank in range(num_ranks)] == shares


def test_a_rank_is_told_its_cores() -> None:
    settings = RankSettings(master=Address("127.0.0.1", 1), threads=1, cores=(2, 5))
    request = request_of_rank(RunRequest(plan_path=Path("plan.yaml"), local=True), 1, settings)
    assert request.cores == (2, 5)
    assert parse_run(request.words()) == request


def test_all_that_a_rank_starts_is_kept_to_them() -> None:
    core = max(os.sched_getaffinity(0))
    program = (
        "import os, threading; from edgelaunch.process.cores import keep_to_cores\n"
        f"keep_to_cores(({core},))\n"
        "thread = threading.Thread(target=lambda: print(os.sched_getaffinity(0))); thread.start(); thread.join()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, f"{{{core}}}")


@pytest.mark.slow
@pytest.mark.skipif(available_cores() < 2, reason="with one core, ranks share it")
def test_ranks_of_a_run_share_no_core(two_stages: Written) -> None:
    each, left_over = divmod(available_cores(), 2)
    running = Running([two_stages.path, "--local", "--items", 100_000, "--rate", 50])
    for rank in (0, 1):
        running.wait_for(f"rank {rank} (host-{rank}): stage")
    first, second = (
        {core for thread in threads_of(two_stages.path, rank) for core in os.sched_getaffinity(thread)}
        for rank in (0, 1)
    )
    assert (len(first), len(second), len(first & second)) == (each + left_over, each + left_over, left_over)
    os.kill(running.process.pid, signal.SIGINT)
    running.wait()


def threads_of(plan: Path, rank: int) -> list[int]:
    return [int(thread.name) for thread in Path(f"/proc/{rank_process(plan, rank)}/task").iterdir()]


def test_a_core_that_went_away_ends_nothing() -> None:
    before = os.sched_getaffinity(0)
    keep_to_cores((4096,))
    assert os.sched_getaffinity(0) == before
