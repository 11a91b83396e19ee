"""Ranks that are killed, stopped or lost while a stream runs: every result is there, once and in order."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import launch_plans
import numpy as np
import pytest
import run_words
from launch_harness import Running, free_port, processes_of, rank_process, wait_all, wait_for_results, wait_gone
from launch_plans import Written

NUM_ITEMS = 160
FACTOR = 4  # two stages double, the middle one only takes time


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Three stages on three ranks, and a plan for the loss of each; a lost rank is found in 1.5 s."""
    folder = tmp_path_factory.mktemp("recovery")
    written = launch_plans.floats(folder, 3, launch_plans.Heavy(), detect_s=1.5, rejoin_s=30.0)
    return launch_plans.with_contingencies(written)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The same without contingencies."""
    folder = tmp_path_factory.mktemp("bare")
    return launch_plans.floats(folder, 3, launch_plans.Heavy(), detect_s=1.5, rejoin_s=30.0)


@pytest.fixture(scope="module")
def x(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "x.npy"
    np.save(path, np.random.default_rng(0).random((NUM_ITEMS, 4), dtype=np.float32))
    return path


def check(output: Path, x: Path) -> None:
    np.testing.assert_allclose(np.load(output), FACTOR * np.load(x), rtol=1e-6)
    assert [file.name for file in output.parent.iterdir()] == [output.name]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "rank"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 1)])
def test_the_others_go_on_without_it_and_then_with_it(
    plan: Written, x: Path, tmp_path: Path, how: signal.Signals, rank: int
) -> None:
    output = tmp_path / "y.npy"
    running = Running([plan.path, "--local", "--input", x, "--output", output])
    wait_for_results(running, output, 20)
    os.kill(rank_process(plan.path, rank), how)
    ended = running.wait().expect(0)
    check(output, x)
    assert f"rank {rank} (host-{rank}, units {rank}-{rank})" in ended.err
    without, whole = (run_words.continues(plan.plan, without=lost) for lost in (f"host-{rank}", None))
    # one that is killed may be there again before the others have left the epoch; one that is silent is lost before
    assert without in ended.err or (how == signal.SIGKILL and whole in ended.err)
    assert run_words.results_again(plan.plan) in ended.err
    wait_gone(plan.path, 1.0)


@pytest.mark.slow
def test_a_rank_that_comes_back_after_the_last_result_is_no_failure(plan: Written, x: Path, tmp_path: Path) -> None:
    output = tmp_path / "y.npy"
    running = Running([plan.path, "--local", "--input", x, "--output", output])
    wait_for_results(running, output, NUM_ITEMS - 20)
    os.kill(rank_process(plan.path, 2), signal.SIGKILL)
    running.wait().expect(0)
    check(output, x)
    wait_gone(plan.path, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_needed_is_started_again(bare: Written, x: Path, tmp_path: Path, how: signal.Signals) -> None:
    output = tmp_path / "y.npy"
    running = Running([bare.path, "--local", "--input", x, "--output", output])
    wait_for_results(running, output, 20)
    os.kill(rank_process(bare.path, 1), how)
    ended = running.wait().expect(0)
    check(output, x)
    assert "rank 1 (host-1) was killed by SIGKILL: restarting it" in ended.err
    assert run_words.continues(bare.plan) in ended.err


@pytest.mark.slow
def test_a_rank_by_hand_that_was_stopped_finds_that_it_is_out_and_joins_again(
    bare: Written, x: Path, tmp_path: Path
) -> None:
    output, master = tmp_path / "y.npy", f"127.0.0.1:{free_port()}"
    words = ["--master", master, "--input", x, "--output", output]
    started = [Running([bare.path, "--rank", rank, *words]) for rank in range(3)]
    wait_for_results(started[0], output, 20)
    started[2].process.send_signal(signal.SIGSTOP)
    started[0].wait_for(run_words.silent(bare.plan, 2))
    started[2].process.send_signal(signal.SIGCONT)
    ended = wait_all(started)
    assert [item.code for item in ended] == [0, 0, 0], [item.err for item in ended]
    assert run_words.rejoins(bare.plan) in ended[2].err
    check(output, x)


@pytest.mark.slow
def test_a_killed_rank_by_hand_is_started_again_and_takes_its_place(bare: Written, x: Path, tmp_path: Path) -> None:
    output, master = tmp_path / "y.npy", f"127.0.0.1:{free_port()}"
    words = ["--master", master, "--input", x, "--output", output]
    started = [Running([bare.path, "--rank", rank, *words]) for rank in range(3)]
    wait_for_results(started[0], output, 20)
    started[1].process.kill()
    again = Running([bare.path, "--rank", 1, *words])
    for running in (started[0], again, started[2]):
        running.wait().expect(0)
    check(output, x)


@pytest.mark.slow
def test_a_rank_by_hand_that_is_told_to_stop_leaves_and_the_others_go_on(
    plan: Written, x: Path, tmp_path: Path
) -> None:
    output, master = tmp_path / "y.npy", f"127.0.0.1:{free_port()}"
    words = ["--master", master, "--input", x, "--output", output]
    started = [Running([plan.path, "--rank", rank, *words]) for rank in range(3)]
    wait_for_results(started[0], output, 20)
    started[1].process.terminate()
    left = started[1].wait().expect(143)
    assert left.err.splitlines()[-1] == "edgelaunch: rank 1 (host-1) was told to stop (SIGTERM), and left"
    for running in (started[0], started[2]):
        running.wait().expect(0)
    assert run_words.left(plan.plan, 1, "SIGTERM") in started[0].text()[1]
    assert run_words.continues(plan.plan, without="host-1") in started[0].text()[1]
    check(output, x)


@pytest.mark.slow
def test_a_rank_here_that_is_told_to_stop_is_started_again(bare: Written, x: Path, tmp_path: Path) -> None:
    output = tmp_path / "y.npy"
    running = Running([bare.path, "--local", "--input", x, "--output", output])
    wait_for_results(running, output, 20)
    os.kill(rank_process(bare.path, 1), signal.SIGTERM)
    ended = running.wait().expect(0)
    check(output, x)
    assert "rank 1 (host-1) was told to stop (SIGTERM), and left: restarting it" in ended.err
    assert run_words.continues(bare.plan) in ended.err


@pytest.mark.slow
def test_without_a_rank_that_stays_away_the_run_ends(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path, 2, launch_plans.Heavy(), detect_s=1.5, rejoin_s=1.0)
    master = f"127.0.0.1:{free_port()}"
    words = ["--master", master, "--items", 100_000, "--output", tmp_path / "y.npy"]
    started = [Running([plan.path, "--rank", rank, *words]) for rank in range(2)]
    wait_for_results(started[0], tmp_path / "y.npy")
    started[1].process.kill()
    started[0].wait().expect_error("rank 1 (host-1, units 1-1) is gone", "after item", "did not come back within 1 s")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_every_rank_ends_without_the_data_host(bare: Written, tmp_path: Path, how: signal.Signals) -> None:
    master = f"127.0.0.1:{free_port()}"
    words = ["--master", master, "--items", 100_000, "--output", tmp_path / "y.npy"]
    started = [Running([bare.path, "--rank", rank, *words]) for rank in range(3)]
    try:
        wait_for_results(started[0], tmp_path / "y.npy")
        started[0].process.send_signal(how)
        for running in started[1:]:
            running.wait(15).expect_error("rank 0 (host-0) ")
    finally:
        started[0].process.kill()
    wait_gone(bare.path, 5.0)


@pytest.mark.slow
def test_resume_after_everything_was_killed(bare: Written, x: Path, tmp_path: Path) -> None:
    output = tmp_path / "y.npy"
    words = [bare.path, "--local", "--input", x, "--output", output, "--resume"]
    running = Running(words)
    wait_for_results(running, output, 20)
    for process in (*processes_of(bare.path), running.process.pid):
        os.kill(process, signal.SIGKILL)
    running.process.wait()
    wait_gone(bare.path, 5.0)
    with (tmp_path / "y.npy.partial" / "0.npy").open("ab") as file:
        file.write(b"torn")
    ended = Running(words).wait().expect(0)
    assert "resuming after item" in ended.err
    assert f"{NUM_ITEMS} results in {output}" in ended.out
    check(output, x)


@pytest.mark.slow
def test_an_application_gets_every_result(plan: Written) -> None:
    code = f"""
import os, signal, sys, numpy as np, edgelaunch
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from launch_harness import rank_process
from pathlib import Path
x = np.random.default_rng(0).random((120, 4), dtype=np.float32)
with edgelaunch.Pipeline({str(plan.path)!r}, local=True) as p:
    given = []
    for index, y in enumerate(p.stream(x)):
        given.append(y)
        if index == 20:
            os.kill(rank_process(Path({str(plan.path)!r}), 1), signal.SIGKILL)
    assert np.allclose(given, 4 * x), len(given)
    assert np.allclose(p(x[:7]), 4 * x[:7])
print('good')
"""
    assert Running(["-c", code], program=[sys.executable]).wait().expect(0).out == "good\n"


@pytest.mark.slow
def test_an_epoch_that_is_over_goes_with_its_buffers_at_once(plan: Written) -> None:
    code = f"""
import gc, os, signal, sys, time, numpy as np, edgelaunch
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from launch_harness import rank_process
from pathlib import Path
from edgelaunch.pipeline.rank import Rank
x = np.random.default_rng(0).random((40, 4), dtype=np.float32)
gc.disable()
with edgelaunch.Pipeline({str(plan.path)!r}, local=True) as p:
    for _ in range(3):
        for index, y in enumerate(p.stream(x)):
            if index == 20:
                os.kill(rank_process(Path({str(plan.path)!r}), 1), signal.SIGKILL)
    deadline = time.monotonic() + 20
    def there():
        return [item.role.number for item in gc.get_objects() if type(item) is Rank]
    while len(there()) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    print(len(there()), max(there()) > 1)
"""
    assert Running(["-c", code], program=[sys.executable]).wait().expect(0).out == "1 True\n"
