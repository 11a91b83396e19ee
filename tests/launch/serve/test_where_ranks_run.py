"""A service whose ranks are elsewhere: emulated hosts, boards with agents, boards by ssh; and what it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import launch_plans
import pytest
from board_harness import LAPTOP, Network, end
from launch_harness import Running, free_port, processes_of, rank_process, wait_gone
from launch_plans import Written
from served import Served

from edgecompile.contract.cluster import Limits
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.run_record import read_run
from edgelaunch.boards.discovery import own_addresses
from edgelaunch.emulation.emulated_run import Emulation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ONE = {"inputs": {"x": [[1, 2, 3, 4]]}}
FOUR_TIMES = [[4, 8, 12, 16]]


def named(plan: Plan) -> Plan:
    hosts = tuple(replace(host, name=f"pi-{host.rank}") for host in plan.hosts)
    return replace(plan, hosts=hosts, cluster=tuple(host.name for host in hosts))


def ask(service: Served) -> None:
    answer = service.post("/v1/predict", json=ONE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"]["y"] == FOUR_TIMES


def test_a_service_leaves_its_record_as_a_run_does(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path / "plan")
    with Served(plan.path, "--run", tmp_path / "served.json") as service:
        for _ in range(3):
            ask(service)
    record = read_run(tmp_path / "served.json")
    assert record.num_items == 3
    assert [stage.microbatches for stage in record.stages] == [3, 3]
    with Served(plan.path):
        pass  # nothing was asked: there is nothing to keep
    assert not (plan.path.parent / "run.json").exists()
    with Served(plan.path) as service:
        ask(service)
    assert read_run(plan.path.parent / "run.json").num_items == 1


def test_a_service_of_text_records_its_requests(text_plan: Path, tmp_path: Path) -> None:
    with Served(text_plan, "--run", tmp_path / "served.json") as service:
        asked = {"prompt": [3, 4, 5], "max_tokens": 4}
        used = [service.post("/v1/completions", json=asked).json()["usage"] for _ in range(2)]
    text = read_run(tmp_path / "served.json").text
    assert text is not None
    assert (text.requests, text.cancelled, text.prompt_tokens) == (2, 0, 6)
    assert text.tokens == sum(one["completion_tokens"] for one in used) == 8
    assert [request.prompt_tokens for request in text.trace] == [3, 3]
    assert text.first_token.count == 2


def test_the_ways_to_start_ranks_are_one_at_a_time(two_stages: Written) -> None:
    for words, said in (
        (["--local", "--emulate"], "--local and --emulate both start every rank"),
        (["--boards", "--ssh", "pi@"], "--boards starts ranks by agents, and --ssh without them: give one of them"),
        (["--boards", "--rank", 0], "--boards starts every rank: leave out --rank"),
        (["--join", "10.0.0.1"], "--join names a board for --boards"),
        (["--restarts", 2], "--restarts needs --local, --emulate, --boards or --ssh"),
        (["--local", "--threads", 0], "invalid value 0 for --threads"),
    ):
        Running(["serve", two_stages.path, *words]).wait().expect_error(said)


# --- emulated ------------------------------------------------------------------------------------------------------


@pytest.fixture
def emulated(tmp_path: Path) -> Written:
    limits = Limits(memory_bytes=1 << 30, cpu_share=0.9, bandwidth_bytes_per_s=1.25e6)
    written = launch_plans.floats(
        tmp_path,
        rejoin_s=40.0,
        change=lambda plan: replace(plan, hosts=tuple(replace(host, limits=limits) for host in plan.hosts)),
    )
    try:
        with Emulation(written.plan):
            return written
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.root
def test_on_emulated_hosts_it_answers_here_and_outlives_a_rank(emulated: Written) -> None:
    with Served(emulated.path, "--emulate", local=False) as service:
        assert service.get("/readyz").json() == {"ready": True}
        ask(service)
        os.kill(rank_process(emulated.path, 1), signal.SIGKILL)
        ask(service)
        ended = service.stop().expect(0)
    assert "(host-0): 0.9 cores" in ended.err
    assert "was killed by SIGKILL: restarting it" in ended.err
    assert "answered 3 requests" in ended.err
    assert read_run(emulated.path.parent / "run.json").num_items == 2
    assert processes_of(emulated.path) == []


@pytest.mark.root
def test_on_emulated_hosts_a_port_that_is_taken_is_one_line(emulated: Written) -> None:
    with Served(emulated.path) as service:
        port = service.url.rpartition(":")[2]
        taken = Running(["serve", emulated.path, "--emulate", "--port", port]).wait(60.0)
        taken.expect_error("nothing can listen at", "choose another --port")


# --- on boards -----------------------------------------------------------------------------------------------------


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    network = Network(tmp_path / "network")
    try:
        network.open()
    except UserError as error:
        pytest.skip(str(error))
    network.start_agents()
    yield network
    network.close()


@pytest.mark.root
def test_on_boards_it_starts_the_others_and_outlives_one(network: Network, tmp_path: Path) -> None:
    written = launch_plans.floats(tmp_path / "plan", 3, launch_plans.Scale(1.0), addresses=network.addresses,
                                  detect_s=1.5, rejoin_s=60.0, change=named)  # fmt: skip
    network.run(LAPTOP, "serve", written.path, "--boards").expect_error("edgelaunch serve answers on the data host",
                                                                       "pi-0")  # fmt: skip
    running = network.start(0, "serve", written.path, "--boards", "--bind", network.address(0))
    running.wait_for("see http://")

    def asked() -> None:
        curl = ["curl", "-s", "-m", 60, f"http://{network.address(0)}:8000/v1/predict",
                "-H", "content-type: application/json", "-d", json.dumps(ONE)]  # fmt: skip
        answer = network.start(LAPTOP, *curl[1:], program=["curl"]).wait(70.0).expect(0)
        assert json.loads(answer.out)["outputs"]["y"] == FOUR_TIMES

    asked()
    network.agents[2].process.kill()
    network.agents[2].process.wait()
    network.start_agent(2)  # as systemd does
    asked()
    running.process.send_signal(signal.SIGTERM)
    ended = running.wait(60.0).expect(0)
    assert "its agent was started again: starting its rank again" in ended.err
    assert re.search(r"rank 1 \(pi-1\), epoch \d+: done", ended.err)
    assert read_run(written.path.parent / "run.json").num_items == 2
    for agent in network.agents.values():
        end(agent)


def test_by_ssh_it_starts_the_others(tmp_path: Path) -> None:
    """With a program of that name that starts them here."""
    address = next(iter(own_addresses()), None)
    if address is None:
        pytest.skip("this machine has no address but the loopback's")
    written = launch_plans.floats(tmp_path / "plan", addresses=[address] * 2, port=free_port(), change=named)
    (tmp_path / "ssh").write_text('#!/bin/sh\nwhile [ $# -gt 2 ]; do shift; done\nexec sh -c "$2"\n')
    (tmp_path / "ssh").chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "XDG_STATE_HOME": str(tmp_path / "state")}
    words = ["--ssh", "pi@", "--ssh-program", f"{sys.executable} -m edgelaunch"]
    with Served(written.path, *words, local=False, EDGELAUNCH_SECRET="", **environ) as service:
        ask(service)
        ended = service.stop().expect(0)
    assert re.search(r"rank 1 \(pi-1\), epoch \d+: done", ended.err)
    wait_gone(written.path, 20.0)
