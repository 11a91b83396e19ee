"""--emulate for real: namespaces, rates, limits, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import launch_plans
import numpy as np
import pytest
import torch
from launch_harness import Running
from tiny_text import generation

from edgecompile.contract.cluster import Limits, Network
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.emulation import cgroups, netns
from edgelaunch.emulation import emulated_run as emulate
from edgelaunch.emulation.emulated_run import Emulation
from edgelaunch.process.slower_cores import VARIABLE
from edgelaunch.process.steps_alone import VARIABLE as TURNS
from edgelaunch.process.steps_alone import steps_alone

DEADLINE_S = 150.0
"""A host with part of a core takes long to import torch."""
RATE = 1.25e6


def cluster(model: str = "host", share: float | None = 0.9, memory_bytes: int = 1 << 30) -> Callable[[Plan], Plan]:
    """Gives a plan limits, and links of 10 Mbit/s."""

    def change(plan: Plan) -> Plan:
        limits = Limits(memory_bytes=memory_bytes, cpu_share=share, bandwidth_bytes_per_s=RATE)
        network = Network(model=model, bandwidth_bytes_per_s=RATE if model == "shared" else None, latency_s=1e-4)
        hosts = tuple(replace(host, limits=limits) for host in plan.hosts)
        return replace(plan, hosts=hosts, network=network)

    return change


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of three hosts; skips all tests where this machine cannot emulate."""
    found = launch_plans.floats(tmp_path_factory.mktemp("emulated"), num_stages=3, change=cluster()).plan
    try:
        with Emulation(found):
            return found
    except UserError as error:
        pytest.skip(str(error))


pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.usefixtures("plan")]


def left_of(process: int) -> list[str]:
    """Namespaces and groups that carry a process's id."""
    mark = f"{emulate._family()}{process}-"
    groups = cgroups.groups_named(mark, cgroups.find_controllers())
    folders = Path(tempfile.gettempdir()).glob(f"{mark}*")
    return [*netns.namespaces_named(mark), *map(str, groups), *map(str, folders)]


@pytest.mark.parametrize("model", ["host", "pairwise", "shared"])
def test_results_are_those_of_local_and_nothing_is_left(model: str, tmp_path: Path) -> None:
    written = launch_plans.floats(tmp_path / "plan", num_stages=3, change=cluster(model, share=None), timeout_s=60.0)
    rows = np.random.default_rng(0).random((7, 4), dtype=np.float32)
    np.save(tmp_path / "x.npy", rows)
    for option in ("--local", "--emulate") if model == "host" else ("--emulate",):
        output = tmp_path / f"y{option}.npy"
        running = Running([written.path, option, "--input", tmp_path / "x.npy", "--output", output, "--verify"])
        ended = running.wait(DEADLINE_S).expect(0)
        assert "verified: 6 items" in ended.out
        np.testing.assert_array_equal(np.load(output), 8 * rows)
        assert left_of(running.process.pid) == []
    assert "emulating 3 hosts" in ended.err
    assert "rank 2 (host-2): stage 2, units 2-2, cpu" in ended.err


SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 5000)) as channel:
    begin = time.perf_counter()
    channel.sendall(bytes(1_000_000))
    channel.recv(1)
print(time.perf_counter() - begin)
"""
TAKE = """
import socket, sys
with socket.create_server((sys.argv[1], 5000)) as server:
    print("listening", flush=True)
    channel, _ = server.accept()
    left = 1_000_000
    while left:
        left -= len(channel.recv(left))
    channel.sendall(b"1")
"""


@pytest.mark.parametrize("model", ["host", "pairwise", "shared"])
def test_a_megabyte_takes_as_long_as_the_link_needs(plan: Plan, model: str) -> None:
    with Emulation(cluster(model)(plan)) as emulation:
        address = emulation.address(2)
        take = subprocess.Popen(
            [*emulation.prefix(2), sys.executable, "-c", TAKE, address], stdout=subprocess.PIPE, text=True
        )
        assert take.stdout is not None
        assert take.stdout.readline() == "listening\n"
        send = [*emulation.prefix(1), sys.executable, "-c", SEND, address]
        done = subprocess.run(send, capture_output=True, text=True, timeout=60, check=True)
        assert take.wait(10) == 0
    assert float(done.stdout) > 0.95 * 1e6 / RATE


def test_a_share_of_a_core_is_no_more(plan: Plan) -> None:
    spin = (
        f"import os, time; print(os.environ['{VARIABLE}'])\n"
        "begin = time.perf_counter(); used = time.process_time()\n"
        "while time.perf_counter() < begin + 1.5: pass\n"
        "print((time.process_time() - used) / (time.perf_counter() - begin))"
    )
    with Emulation(cluster(share=0.2)(plan)) as emulation:
        command = [*emulation.prefix(0), sys.executable, "-c", spin]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    told, used = done.stdout.split()
    assert float(told) == 0.2, "what a step of text takes, a quota of 100 ms alone does not hold"
    assert float(used) < 0.24


def test_hosts_of_a_language_model_take_turns(plan: Plan) -> None:
    text = replace(cluster(share=0.2)(plan), generation=generation(None))
    with Emulation(text) as emulation:
        values = [
            subprocess.run(
                [*emulation.prefix(rank), "printenv", TURNS], capture_output=True, text=True, check=True
            ).stdout
            for rank in range(len(plan.hosts))
        ]
        numbers, folders = zip(*(value.strip().split(":") for value in values), strict=True)
        assert numbers == ("0", "1", "2")
        (folder,) = {*folders}
        assert folder in left_of(os.getpid())
        assert steps_alone({TURNS: values[2].strip()}) is not None
    assert left_of(os.getpid()) == []


class Hungry(torch.nn.Module):
    """Takes 1.2 GB where an item says so, which the golden ones don't."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        y = torch.ones(300_000_000 if bool(x.max() > 100) else 10)
        return (x * y[5],)


def test_a_host_that_outgrows_its_memory_is_named(tmp_path: Path) -> None:
    change = cluster(share=None, memory_bytes=700_000_000)
    written = launch_plans.floats(tmp_path / "plan", num_stages=3, middle=Hungry(), change=change, timeout_s=60.0)
    np.save(tmp_path / "x.npy", np.full((4, 4), 1000, dtype=np.float32))
    running = Running([written.path, "--emulate", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"])
    running.wait(DEADLINE_S).expect_error(
        "rank 1 (host-1) exceeded its memory limit of 700 MB, where the plan predicted 1.05 MB: compile with"
    )
    assert left_of(running.process.pid) == []
    assert list(tmp_path.glob("*y.npy*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    written = launch_plans.floats(tmp_path / "plan", change=cluster(share=None), timeout_s=60.0)
    running = Running([written.path, "--emulate", "--rate", 2, "--items", 1000])
    running.wait_for("rank 1 (host-1): stage 1", DEADLINE_S)
    assert left_of(running.process.pid) != []
    running.process.send_signal(number)
    running.wait(30).expect(130)
    assert left_of(running.process.pid) == []


KEEP = """
import subprocess, sys, time
from edgecompile.contract.plan_file import read_plan
from edgelaunch.emulation.emulated_run import Emulation
with Emulation(read_plan(sys.argv[1])) as emulation:
    inside = subprocess.Popen([*emulation.prefix(1), "sleep", "600"])
    time.sleep(0.5)
    print(inside.pid, flush=True)
    time.sleep(600)
"""


def test_the_next_start_removes_what_a_killed_one_left(plan: Plan, tmp_path: Path) -> None:
    written = launch_plans.floats(tmp_path / "plan", change=cluster())
    kept = [
        subprocess.Popen([sys.executable, "-c", KEEP, str(written.path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        inside = [int(process.stdout.readline()) for process in kept if process.stdout is not None]
        killed, alive = kept
        killed.kill()
        killed.wait()
        os.kill(inside[0], 0)
        assert left_of(killed.pid) != []
        before = left_of(alive.pid)
        assert before != []
        with Emulation(plan):
            assert left_of(killed.pid) == []
            assert left_of(alive.pid) == before, "another emulation is not disturbed"
        assert gone(inside[0])
        assert not gone(inside[1])
        alive.terminate()
    finally:
        for process in kept:
            process.kill()
            process.wait()
        with Emulation(plan):  # removes the other's
            pass


def gone(process: int, deadline_s: float = 2.0) -> bool:
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
