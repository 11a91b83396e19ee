"""Who watches a run through its store or a folder: proves that it may, is no member, and disturbs nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import launch_plans
import pytest
from launch_harness import DEADLINE_S, Running, free_port, run, wait_for_results
from launch_meeting import Meeting
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address
from edgelaunch.common.failures import PeerLostError
from edgelaunch.control.pipeline_state import PipelineState
from edgelaunch.control.process_checks import own_process
from edgelaunch.store.joining import WATCHER
from edgelaunch.watching import runs_here as folder
from edgelaunch.watching.runs_here import RunHere, announce, runs_here
from edgelaunch.watching.store_watcher import StoreWatcher
from edgelaunch.watching.watched_rank import show_state

SECRET = b"correct horse battery staple"
SECRET_HERE = {"EDGELAUNCH_SECRET": SECRET.decode()}


def until(work: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := work()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


# --- at the door -----------------------------------------------------------------------------------------------------


def test_a_watcher_proves_the_secret_and_is_nobody(two_stages: Written) -> None:
    with Meeting(two_stages.plan, SECRET) as meeting:
        for secret, words in ((b"incorrect horse battery staple", "is not rank 0's"), (None, "this watcher has none")):
            with pytest.raises(UserError, match=words):
                meeting.join(secret, rank=WATCHER)
        assert meeting.join(SECRET, rank=WATCHER).seal is not None
        assert meeting.door.turned_away == {}
    assert meeting.remarks == [
        "a watcher has a different secret: rejected",
        "a watcher did not present the secret: rejected",
    ]


def test_watchers_that_come_and_go_leave_nothing_in_the_store(two_stages: Written) -> None:
    with Meeting(two_stages.plan, SECRET) as meeting:
        meeting.join(SECRET, rank=WATCHER)
        before = meeting.stranger.num_keys()
        for _ in range(20):
            meeting.join(SECRET, rank=WATCHER)
        assert meeting.stranger.num_keys() <= before


# --- a run by hand ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def by_hand(written: Written, *words: object) -> Iterator[tuple[Address, dict[int, Running]]]:
    """A run of two ranks with a secret, and where its rank 0 listens."""
    master = Address("127.0.0.1", free_port())
    ranks = {
        rank: Running([written.path, "--rank", rank, "--master", master, *words], **SECRET_HERE) for rank in (0, 1)
    }
    try:
        yield master, ranks
    finally:
        for running in ranks.values():
            if running.process.poll() is None:
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()


@pytest.mark.slow
def test_several_watch_and_one_that_stands_still_holds_up_nobody(tmp_path: Path) -> None:
    written, output = launch_plans.floats(tmp_path / "plan"), tmp_path / "y.npy"
    with by_hand(written, "--items", 900, "--rate", 100, "--output", output) as (master, ranks):
        wait_for_results(ranks[0], output)
        words = [sys.executable, "-m", "edgelaunch", "top", str(written.path), "--master", str(master)]
        still = subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ | SECRET_HERE)
        assert still.stdout is not None
        assert b"tiny: running" in still.stdout.readline()
        os.kill(still.pid, signal.SIGSTOP)  # its connection stays, and nothing reads from it
        watchers = [StoreWatcher(written.plan, master, SECRET) for _ in range(3)]
        states = [until(watcher.look) for watcher in watchers]
        assert all(state.num_present == 2 and state.ready for state in states)
        later = until(watchers[0].look)
        assert later.number > states[0].number
        assert {host.num_lost for host in later.hosts} == {0}
        ended = {rank: running.wait() for rank, running in ranks.items()}
        assert until(lambda: _is_gone(watchers[1]))
        os.kill(still.pid, signal.SIGCONT)
        assert b"the pipeline has ended" in still.communicate(timeout=DEADLINE_S)[0]
    assert [ended[rank].expect(0).err.count("watcher") for rank in (0, 1)] == [0, 0]
    assert "rejected" not in ended[0].err


def _is_gone(watcher: StoreWatcher) -> bool:
    try:
        watcher.look()
    except PeerLostError:
        return True
    return False


@pytest.mark.slow
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    written, output = launch_plans.floats(tmp_path / "plan"), tmp_path / "y.npy"
    with by_hand(written, "--items", 100_000, "--rate", 50, "--output", output) as (master, ranks):
        wait_for_results(ranks[0], output)
        words = ["top", written.path, "--once", "--master"]
        run(*words, master, EDGELAUNCH_SECRET="another secret of some length").expect_error("is not rank 0's")
        run(*words, master, EDGELAUNCH_SECRET="").expect_error("asks for a shared secret")
        nobody = Address("127.0.0.1", free_port())
        run(*words, nobody, **SECRET_HERE).expect_error("nothing answers", "Connection refused", "--master")
        assert ranks[0].process.poll() is None
    run("top", written.path, "--once").expect_error("nothing answers", "the pipeline has ended")


# --- in a folder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    where = tmp_path / "runs"
    monkeypatch.setattr(folder, "_folder", lambda: where)
    return where


def announced(rank: int = 0) -> RunHere:
    found = announce(rank=rank, plan=Path("plan.yaml"), plan_sha256="ab", model="tiny", master="127.0.0.1:1")
    assert found is not None
    return found


class Runner:
    """Of a run that is asked for its state so often, and is over then."""

    def __init__(self, times: int) -> None:
        self.left = times

    @property
    def over(self) -> bool:
        return self.left == 0

    def state(self, number: int) -> PipelineState:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("asked again")
        return PipelineState(number=number, model="tiny")

    def store_board(self) -> None:
        return None


def test_a_run_here_is_found_until_its_process_has_ended(private: Path) -> None:
    run_here = announced()
    assert private.stat().st_mode & 0o777 == 0o700
    assert runs_here() == [run_here]
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    text = (private / f"{own_process().number}-{own_process().started}.json").read_text()
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    other = text.replace(f'"number": {own_process().number}', f'"number": {child.pid}')
    other = other.replace(f'"started": "{own_process().started}"', f'"started": "{started}"')
    (private / f"{child.pid}-{started}.json").write_text(other)
    assert len(runs_here()) == 2
    child.communicate(b"\n")
    assert runs_here() == [run_here]
    assert not (private / f"{child.pid}-{started}.json").exists()
    run_here.remove()
    assert runs_here() == []


def test_a_state_is_written_where_somebody_asks(private: Path) -> None:
    run_here, logged = announced(), []
    assert run_here.state() is None
    assert not run_here.is_asked
    run_here.ask()
    assert run_here.is_asked
    states: list[PipelineState] = []
    remove, removed = RunHere.remove, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunHere, "remove", lambda self: (states.append(self.state()), removed.append(self)))  # type: ignore[arg-type]
        show_state(Runner(3), run_here, logged.append)  # type: ignore[arg-type]
    assert [state.number for state in states] == [3]
    assert removed == [run_here]
    remove(run_here)
    assert logged == []


def test_what_goes_wrong_in_watching_ends_no_run(private: Path) -> None:
    class Broken(Runner):
        def state(self, number: int) -> PipelineState:
            raise ValueError("a bug")

    run_here, logged = announced(), []
    run_here.ask()
    show_state(Broken(1), run_here, logged.append)  # type: ignore[arg-type]
    assert logged == ["the run can no longer be watched: a bug"]
    assert runs_here() == []


def test_a_folder_that_others_can_read_is_not_used(private: Path) -> None:
    private.mkdir(mode=0o755)
    private.chmod(0o755)
    assert announce(rank=0, plan=Path("plan.yaml"), plan_sha256="ab", model="tiny", master="127.0.0.1:1") is None
    assert runs_here() == []
    private.rmdir()
    (private.parent / "elsewhere").mkdir(mode=0o700)
    private.symlink_to(private.parent / "elsewhere")
    assert announce(rank=0, plan=Path("plan.yaml"), plan_sha256="ab", model="tiny", master="127.0.0.1:1") is None


def test_what_others_wrote_there_is_passed_over(private: Path) -> None:
    run_here = announced()
    for number, text in enumerate(["", "7", "{}", '{"process": 3}', "[]"]):
        (private / f"{number}.json").write_text(text)
    assert runs_here() == [run_here]
