"""Runs that end badly: each ends in time, says why once, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import launch_plans
import numpy as np
import pytest
from launch_harness import (
    Running,
    free_port,
    processes_of,
    rank_process,
    run,
    run_ranks,
    wait_all,
    wait_for_results,
    wait_gone,
)
from launch_plans import Written

pytestmark = pytest.mark.slow

END_S = 5.0


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Two stages, the second one busy: a run of as many items as a test needs."""
    return launch_plans.floats(tmp_path_factory.mktemp("slow"), middle=launch_plans.Heavy(), timeout_s=6.0)


def start_slow_by_hand(written: Written, output: Path) -> list[Running]:
    """Every rank as a process of its own; results are coming."""
    words = ["--master", f"127.0.0.1:{free_port()}", "--items", 100_000, "--output", output]
    started = [Running([written.path, "--rank", rank, *words]) for rank in range(len(written.plan.hosts))]
    wait_for_results(started[0], output)
    return started


def start_slow(slow: Written, output: Path) -> Running:
    running = Running([slow.path, "--local", "--items", 100_000, "--output", output])
    wait_for_results(running, output)
    return running


# --- files and arguments ------------------------------------------------------------------------------------------


def test_plan_missing(tmp_path: Path) -> None:
    run(tmp_path / "none.yaml", "--local").expect_error("none.yaml", "no such plan")


def test_plan_truncated(copied: Written) -> None:
    text = copied.path.read_text()
    copied.path.write_text(text[: len(text) // 2])
    run(copied.path, "--local").expect_error("plan.yaml")


def test_plan_of_a_future_version(copied: Written) -> None:
    copied.path.write_text(copied.path.read_text().replace("version: 1", "version: 99"))
    run(copied.path, "--local").expect_error("version is 99")


def test_shard_missing(copied: Written) -> None:
    (copied.path.parent / "shards" / "1.pt").unlink()
    run(copied.path, "--local").expect_error("shards/1.pt", "rank 1 (host-1)", "missing")


def test_shard_with_a_changed_byte(copied: Written) -> None:
    shard = copied.path.parent / "shards" / "0.pt"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    run(copied.path, "--rank", "0", "--master", "127.0.0.1:1").expect_error("shards/0.pt", "rank 0 (host-0)", "damaged")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--rank", "2"], "--rank 2 is out of range: the plan has ranks 0 to 1"),
        (["--rank", "-1"], "out of range"),
        (["--rank", "x"], "invalid int value"),
        (["--items", "0", "--local"], "invalid value 0 for --items"),
        (["--local", "--rank", "0"], "leave out --rank"),
        (["--rank", "0", "--master", "nonsense"], "ADDRESS:PORT"),
        ([], "2 of the plan's hosts are this machine"),
        (["--local", "--input", "none.npy"], "none.npy: no such input"),
        (["--local", "--output", "/nowhere/y.npy"], "there is no folder /nowhere"),
        (["--local", "--output", "y.csv"], "expected a name that ends in .npy, .npz, .jsonl"),
    ],
)
def test_arguments(two_stages: Written, arguments: list[str], part: str) -> None:
    run(two_stages.path, *arguments).expect_error(part)


def test_ranks_of_the_environment(two_stages: Written, copied: Written) -> None:
    run(two_stages.path, RANK="2", WORLD_SIZE="2").expect_error("RANK 2 is out of range")
    run(two_stages.path, RANK="0", WORLD_SIZE="3").expect_error("WORLD_SIZE is 3")
    run(two_stages.path, "--rank", "1", RANK="0").expect_error("differ")
    hosts = [replace(host, address="198.51.100.9") for host in copied.plan.hosts]
    copied.plan = replace(copied.plan, hosts=tuple(hosts))
    launch_plans.save(copied)
    run(copied.path).expect_error("is not one of the plan's hosts", "host-1 (198.51.100.9)")
    run(copied.path, RANK="1").expect_error("RANK=1 is host-1")


def test_input_of_the_wrong_shape(two_stages: Written, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 5), np.float32))
    out = tmp_path / "y.npy"
    ended = run(two_stages.path, "--local", "--input", tmp_path / "x.npy", "--output", out)
    ended.expect_error("x.npy", "x is float32 (3, 5)", "float32 (items, 4)")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.npy"]


# --- ranks that do not meet ---------------------------------------------------------------------------------------


def test_port_taken(two_stages: Written) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        run(two_stages.path, "--rank", 0, "--master", f"127.0.0.1:{port}").expect_error(f"port {port}", "is in use")


def test_address_of_another_machine(two_stages: Written) -> None:
    ended = run(two_stages.path, "--rank", 0, "--master", "198.51.100.1:29500", EDGELAUNCH_SECRET="0123456789abcdef")
    ended.expect_error("cannot listen on 198.51.100.1:29500")


def test_missing_ranks_are_named(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path, num_stages=3, timeout_s=3.0)
    master = f"127.0.0.1:{free_port()}"
    first, second = run_ranks([[plan.path, "--rank", rank, "--master", master] for rank in (0, 1)])
    first.expect_error("rank 2 (host-2) did not join within 3 s")
    second.expect_error("rank 2 (host-2) did not join within 3 s")


def test_no_rank_0(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path, timeout_s=2.0)
    port = free_port()
    run(plan.path, "--rank", 1, "--master", f"127.0.0.1:{port}").expect_error("rank 0 did not answer", f"{port}")


def test_a_rank_that_is_there_twice(slow: Written, tmp_path: Path) -> None:
    master, output = f"127.0.0.1:{free_port()}", tmp_path / "y.npy"
    first = Running([slow.path, "--rank", 0, "--master", master, "--items", 100_000, "--output", output])
    twins = [Running([slow.path, "--rank", 1, "--master", master]) for _ in range(2)]
    while all(twin.process.poll() is None for twin in twins):
        assert first.process.poll() is None, first.text()
        time.sleep(0.05)
    wait_for_results(first, output)
    twins.sort(key=lambda twin: twin.process.poll() is None)
    twins[0].wait().expect_error("rank 1 (host-1) is already running")
    first.process.send_signal(signal.SIGINT)
    first.wait().expect(130)
    twins[1].wait().expect_error("rank 0 (host-0): was stopped by Ctrl-C")


def test_ranks_with_different_plans(two_stages: Written, copied: Written) -> None:
    copied.plan = replace(copied.plan, notes=("another",))
    launch_plans.save(copied)
    master = f"127.0.0.1:{free_port()}"
    commands = [[two_stages.path, "--rank", 0, "--master", master], [copied.path, "--rank", 1, "--master", master]]
    for ended in run_ranks(commands):
        ended.expect_error("rank 1 (host-1) has another plan than rank 0")


# --- ranks that fail ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, Path]:
    folder = tmp_path_factory.mktemp("failing")
    x = np.ones((9, 4), np.float32)
    x[5] = -1
    np.save(folder / "x.npy", x)
    return launch_plans.floats(folder / "plan", num_stages=3, middle=launch_plans.Failing()), folder / "x.npy"


def test_a_bug_in_a_shard_shows_its_traceback_once(failing: tuple[Written, Path], tmp_path: Path) -> None:
    plan, x = failing
    ended = run(plan.path, "--local", "--input", x, "--output", tmp_path / "y.jsonl").expect(1)
    assert ended.err.count("Traceback (most recent call last)") == 1
    assert ended.err.count("edgelaunch: error:") == 1
    assert "rank 1 (host-1)" in ended.err
    assert "the shard met a negative number" in ended.err
    assert not (tmp_path / "y.jsonl").exists()


def test_a_bug_ends_every_rank_by_hand(failing: tuple[Written, Path]) -> None:
    plan, x = failing
    master = f"127.0.0.1:{free_port()}"
    commands = [[plan.path, "--rank", rank, "--master", master, "--input", x] for rank in range(3)]
    for rank, ended in enumerate(run_ranks(commands)):
        ended.expect(1)
        assert ended.err.count("edgelaunch: error:") == 1
        assert ("Traceback" in ended.err) == (rank == 1)
        assert "rank 1 (host-1)" in ended.err
        assert "the shard met a negative number" in ended.err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all(slow: Written, tmp_path: Path, rank: int) -> None:
    running = start_slow(slow, tmp_path / "y.npy")
    os.kill(rank_process(slow.path, rank), signal.SIGKILL)
    running.wait(slow.plan.runtime.timeout_s + 3).expect_error(f"rank {rank} (host-{rank}) was killed by SIGKILL")
    assert processes_of(slow.path) == []
    # what was done stays, under a name that says so, for --resume
    assert [file.name for file in tmp_path.iterdir()] == ["y.npy.partial"]
    assert "y.npy.partial: continue with --resume" in running.text()[1]


def test_a_killed_rank_by_hand_is_named_by_the_others(tmp_path: Path) -> None:
    slow = launch_plans.floats(tmp_path / "plan", num_stages=3, middle=launch_plans.Heavy(), timeout_s=6.0)
    started = start_slow_by_hand(slow, tmp_path / "y.npy")
    started[2].process.kill()
    ended = wait_all(started, slow.plan.runtime.timeout_s + 3)
    for rank in (0, 1):
        ended[rank].expect_error("rank 2 (host-2, units 2-2) is gone: it closed its connection, after item")


def test_a_stopped_rank_is_named_within_the_timeout(slow: Written, tmp_path: Path) -> None:
    started = start_slow_by_hand(slow, tmp_path / "y.npy")
    started[1].process.send_signal(signal.SIGSTOP)
    try:
        started[0].wait(slow.plan.runtime.timeout_s + 3).expect_error("rank 1 (host-1, units 1-1) stopped answering")
    finally:
        started[1].process.kill()


# --- Ctrl-C -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGINT to the group"])
def test_interrupted(slow: Written, tmp_path: Path, how: str) -> None:
    running = start_slow(slow, tmp_path / "y.npy")
    if how.endswith("group"):
        os.killpg(running.process.pid, signal.SIGINT)
    else:
        running.process.send_signal(signal.Signals[how])
    ended = running.wait(END_S).expect(130)
    assert ended.err.splitlines()[-1] == "edgelaunch: interrupted"
    assert "Traceback" not in ended.err
    assert "y.npy.partial: continue with --resume" in ended.err
    wait_gone(slow.path, 0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["y.npy.partial"]


def test_interrupted_while_starting(slow: Written) -> None:
    running = Running([slow.path, "--local", "--items", 100_000])
    while len(processes_of(slow.path)) < 3:  # the parent has started the ranks, which import torch now
        time.sleep(0.05)
    time.sleep(0.3)
    running.process.send_signal(signal.SIGINT)
    ended = running.wait(END_S).expect(130)
    assert "Traceback" not in ended.err
    wait_gone(slow.path, 0.5)


def test_no_orphans_when_the_parent_is_killed(slow: Written, tmp_path: Path) -> None:
    running = start_slow(slow, tmp_path / "y.npy")
    running.process.kill()
    running.wait(END_S)
    wait_gone(slow.path, END_S)
    assert [file.name for file in tmp_path.iterdir()] == ["y.npy.partial"]


def test_interrupted_rank_by_hand_tells_the_others(slow: Written, tmp_path: Path) -> None:
    started = start_slow_by_hand(slow, tmp_path / "y.npy")
    started[1].process.send_signal(signal.SIGINT)
    first, second = wait_all(started, END_S)
    assert second.expect(130).err.splitlines()[-1] == "edgelaunch: interrupted"
    first.expect_error("rank 1 (host-1): was stopped by Ctrl-C")


@pytest.mark.parametrize(("rank", "code"), [(0, 130), (1, 143)])
def test_a_rank_by_hand_that_is_told_to_stop_and_cannot_be_done_without(
    slow: Written, tmp_path: Path, rank: int, code: int
) -> None:
    """There is no run without rank 0; this plan has no other for the loss of rank 1, and waits for nobody."""
    started = start_slow_by_hand(slow, tmp_path / "y.npy")
    started[rank].process.terminate()
    ended = wait_all(started, END_S)
    ended[rank].expect(code)
    assert "Traceback" not in ended[rank].err
    name = f"rank {rank} (host-{rank}" + (", units 1-1)" if rank else "):")
    ended[1 - rank].expect_error(name, "was told to stop (SIGTERM)")


def test_an_output_that_cannot_grow(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path / "plan", num_stages=1)
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = [str(plan.path), "--items", "3000", "--output", str(folder / "y.jsonl")]
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"from edgelaunch.commands.launch_command import main; sys.exit(main({arguments!r}))"
    )
    ended = Running(["-c", code], program=[sys.executable]).wait()
    ended.expect_error("y.jsonl: cannot be written: File too large")
    assert [file.name for file in folder.iterdir()] == ["y.jsonl.partial"]  # for when there is room again
