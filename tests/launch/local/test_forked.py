"""Ranks that are forked behave as processes that were started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch_harness import Running, free_port, processes_of, rank_process, run, wait_gone
from launch_plans import Written

from edgelaunch.local import forked
from edgelaunch.local.forked import Forked, adopt_orphans, leave_orphans
from edgelaunch.local.local_run import Children
from edgelaunch.local.placement import OnLoopback
from edgelaunch.request.run_request import RunRequest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="ranks are forked on Linux alone")


def child_that(work: str) -> Forked:
    """A process of this one's, but no fork: that would have the signal handlers of the tests before."""
    process = subprocess.Popen([sys.executable, "-c", f"import sys, time; {work}"])
    process.returncode = 0  # it is not waited for by what started it
    return Forked(process.pid, None)


def test_a_forked_process_tells_how_it_ended() -> None:
    ended = child_that("sys.exit(3)")
    assert ended.wait() == 3
    ended.kill()  # it is gone: nobody else's process is hit
    assert (ended.poll(), ended.returncode) == (3, 3)
    for number in (signal.SIGTERM, signal.SIGKILL):
        waiting = child_that("time.sleep(60)")
        assert waiting.poll() is None
        (waiting.terminate if number == signal.SIGTERM else waiting.kill)()
        assert waiting.wait() == -number


def test_a_check_in_a_child_raises_what_it_found() -> None:
    def finds() -> None:
        raise forked.UserError("a shard is damaged")

    with pytest.raises(forked.UserError, match="a shard is damaged"):
        forked._in_a_child(finds)()
    forked._in_a_child(lambda: None)()
    for fails in (lambda: 1 // 0, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        with pytest.raises(forked.UserError, match="the check of the shards' hashes ended early"):
            forked._in_a_child(fails)()


@pytest.mark.slow
def test_forked_ranks_are_seen_as_ranks_and_end_with_their_parent(three_stages: Written) -> None:
    running = Running([three_stages.path, "--local", "--items", 1_000_000, "--quiet"])
    deadline = time.monotonic() + 30
    while len(processes_of(three_stages.path)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    ranks = [rank_process(three_stages.path, rank) for rank in range(3)]
    parents = {Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1] for rank in ranks}
    assert parents == {str(running.process.pid)}
    assert len({os.getsid(rank) for rank in ranks}) == 3
    running.process.kill()
    wait_gone(three_stages.path, 15)


@pytest.mark.slow
def test_ranks_that_are_forked_and_ranks_that_are_started_give_the_same(two_stages: Written, tmp_path: Path) -> None:
    run(two_stages.path, "--local", "--items", 7, "--output", tmp_path / "forked.jsonl").expect(0)
    request = RunRequest(plan_path=two_stages.path, local=True, items=7, output=tmp_path / "started.jsonl")
    children = Children(two_stages.plan, request, OnLoopback(two_stages.plan, free_port()))
    for rank in range(2):
        children.start(rank)
    try:
        assert children.outcome() is None
    finally:
        children.end(0.0)
    assert (tmp_path / "forked.jsonl").read_text() == (tmp_path / "started.jsonl").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_orphans_are_adopted_only_as_long_as_somebody_needs_it() -> None:
    """Otherwise they would stay in the process table of a program that never waits for them."""

    def adopts() -> bool:
        given = ctypes.c_int(-1)
        assert not ctypes.CDLL(None).prctl(37, ctypes.byref(given), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
        return bool(given.value)

    before = adopts()
    assert adopt_orphans()
    assert adopt_orphans()
    leave_orphans()
    assert adopts()
    leave_orphans()
    assert adopts() is before
