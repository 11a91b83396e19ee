"""Cut and slow links between ranks in namespaces: what is lost, what is reported, what continues."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import launch_plans
import numpy as np
import pytest
import run_words
import torch
from launch_harness import PROGRAM, Running, wait_all, wait_for_results
from launch_plans import Written

from edgecompile.contract.cluster import Limits, Network
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.common.secret import VARIABLE
from edgelaunch.emulation.emulated_run import check_can_emulate
from edgelaunch.emulation.netns import Namespaces

DETECT_S = 2.0
NUM_ITEMS = 900
ITEMS_PER_S = 100
DEADLINE_S = 120.0


@pytest.fixture(scope="module", autouse=True)
def _can_emulate() -> None:
    try:
        check_can_emulate()
    except UserError as error:
        pytest.skip(str(error))


pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def spaces(tmp_path: Path) -> Iterator[Namespaces]:
    """Of three ranks that reach each other directly."""
    found = Namespaces(f"edgetest-{tmp_path.parent.name[-6:]}-{tmp_path.name[-12:]}", 3)
    try:
        found.star([None] * 3)
        yield found
    finally:
        found.remove()


def blackhole(spaces: Namespaces, verb: str, *ways: tuple[int, int]) -> None:
    for source, destination in ways:
        words = ["ip", "-n", spaces.name(source), "route", verb, "blackhole", spaces.address(destination)]
        subprocess.run(words, check=True)


def start(spaces: Namespaces, written: Written, folder: Path) -> list[Running]:
    """All three ranks, and a live stream of nine seconds."""
    rows = np.random.default_rng(0).random((NUM_ITEMS, 4), dtype=np.float32)
    np.save(folder / "x.npy", rows)
    master = ["--master", f"{spaces.address(0)}:29500"]
    ends = ["--input", folder / "x.npy", "--output", folder / "y.npy", "--rate", ITEMS_PER_S]
    started = []
    for rank in range(3):
        program = [*spaces.prefix(rank), *PROGRAM]
        words = [written.path, "--rank", rank, *master, *(ends if rank == 0 else [])]
        started.append(Running(words, program=program, **{VARIABLE: "a secret of these three ranks"}))
    return started


def test_a_plan_that_does_without_one_end_of_a_cut_link_goes_on(spaces: Namespaces, tmp_path: Path) -> None:
    written = launch_plans.floats(tmp_path / "plan", 3, timeout_s=60.0, detect_s=DETECT_S, rejoin_s=60.0)
    written = launch_plans.with_contingencies(written)
    started = start(spaces, written, tmp_path)
    wait_for_results(started[0], tmp_path / "y.npy", 55)
    blackhole(spaces, "add", (2, 1))  # one way
    started[0].wait_for(run_words.link_is_cut(written.plan, 1, 2))
    started[0].wait_for(run_words.continues(written.plan, without="host-1"))
    started[0].wait_for(run_words.results_again(written.plan))
    blackhole(spaces, "delete", (2, 1))
    ended = wait_all(started, DEADLINE_S)
    assert [item.code for item in ended] == [0, 0, 0], [item.err for item in ended]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 8 * np.load(tmp_path / "x.npy"))
    assert run_words.link_is_up(written.plan, 1, 2) in ended[0].err
    assert run_words.continues(written.plan) in ended[0].err
    assert not any(run_words.silent(written.plan, rank) in ended[0].err for rank in (1, 2))


def test_a_run_goes_on_after_a_heal_and_ends_without_one(spaces: Namespaces, tmp_path: Path) -> None:
    written = launch_plans.floats(tmp_path / "plan", 3, timeout_s=60.0, detect_s=DETECT_S, rejoin_s=4.0)
    started = start(spaces, written, tmp_path)
    wait_for_results(started[0], tmp_path / "y.npy", 55)
    blackhole(spaces, "add", (1, 2), (2, 1))
    started[0].wait_for(run_words.link_is_cut(written.plan, 1, 2))
    blackhole(spaces, "delete", (1, 2), (2, 1))
    started[0].wait_for(run_words.results_again(written.plan))
    assert run_words.link_is_up(written.plan, 1, 2) in started[0].text()[1]
    blackhole(spaces, "add", (1, 2))
    for ended in wait_all(started, DEADLINE_S):
        ended.expect_error(run_words.link_is_cut(written.plan, 1, 2), "it did not heal within 4 s")


def slow(plan: Plan) -> Plan:
    """Every host's interface at 48 kbit/s: a queue of 32 kB stands there for more than 5 s."""
    limits = Limits(memory_bytes=1 << 30, cpu_share=None, bandwidth_bytes_per_s=6_000.0)
    hosts = tuple(replace(host, limits=limits) for host in plan.hosts)
    return replace(plan, hosts=hosts, network=Network(model="host", latency_s=1e-4))


def wide(folder: Path, num_floats: int, change: Callable[[Plan], Plan]) -> Written:
    parts = [launch_plans.Part(launch_plans.Scale(2.0), ["y"]) for _ in range(3)]
    inputs = {"x": torch.rand(2, num_floats)}
    return launch_plans.write(folder, inputs, parts, timeout_s=60.0, detect_s=3.0, rejoin_s=0.0, change=change)


def test_a_microbatch_that_takes_longer_than_detection_to_send_is_no_cut(tmp_path: Path) -> None:
    written = wide(tmp_path / "plan", 5000, slow)
    rows = np.random.default_rng(0).random((4, 5000), dtype=np.float32)
    np.save(tmp_path / "x.npy", rows)
    words = [written.path, "--emulate", "--restarts", 0, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
    ended = Running(words).wait(DEADLINE_S).expect(0)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 8 * rows)
    for trouble in ("is cut", "stopped answering", "is gone", "continuing"):
        assert trouble not in ended.err, ended.err
