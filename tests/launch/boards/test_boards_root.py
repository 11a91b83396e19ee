"""Boards on a network of their own: found, listed, started from one place, killed, unplugged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import launch_plans
import numpy as np
import pytest
import yaml
from board_harness import LAPTOP, SECRET, Network, end
from launch_harness import Running, processes_of, wait_for_results

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(400)]

FACTOR = 4
"""Two stages double, the middle one only takes time."""
NUM_ITEMS = 400
COMPILE = "from edgecompile.commands.entry_points import compile_main; raise SystemExit(compile_main())"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Without an agent."""
    network = Network(tmp_path_factory.mktemp("network"))
    try:
        network.open()
    except UserError as error:
        pytest.skip(str(error))
    yield network
    network.close()


@pytest.fixture
def network(empty: Network) -> Iterator[Network]:
    """With an agent a board, which mDNS finds."""
    empty.start_agents()
    yield empty
    for agent in empty.agents.values():
        end(agent)
    empty.agents.clear()


@pytest.fixture(scope="module")
def plan(empty: Network, tmp_path_factory: pytest.TempPathFactory) -> launch_plans.Written:
    def named(plan: Plan) -> Plan:
        hosts = tuple(replace(host, name=f"pi-{host.rank}") for host in plan.hosts)
        return replace(plan, hosts=hosts, cluster=tuple(host.name for host in hosts))

    return launch_plans.floats(tmp_path_factory.mktemp("plan"), 3, launch_plans.Heavy(), addresses=empty.addresses,
                               detect_s=1.5, rejoin_s=60.0, change=named)  # fmt: skip


@pytest.fixture(scope="module")
def x(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "x.npy"
    np.save(path, np.random.default_rng(0).random((NUM_ITEMS, 4), dtype=np.float32))
    return path


def check(output: Path, x: Path) -> None:
    np.testing.assert_allclose(np.load(output), FACTOR * np.load(x), rtol=1e-6)


def rank_of(agent: int, network: Network) -> int:
    """The process of the rank that an agent runs."""
    parent = network.agents[agent].process.pid
    children = Path(f"/proc/{parent}/task").glob("*/children")
    pids = [int(word) for path in children for word in path.read_text().split()]
    ranks = [pid for pid in pids if b"--rank" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    assert len(ranks) == 1, ranks
    return ranks[0]


def wait_for_rank(agent: int, network: Network, deadline_s: float = 60.0) -> int:
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            return rank_of(agent, network)
        except (AssertionError, OSError):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_from_nothing_to_verified_results_in_three_commands(network: Network, tmp_path: Path) -> None:
    conf, out = tmp_path / "conf", tmp_path / "out"
    found = network.run(0, "boards", "--output", conf).expect(0)
    assert all(f"pi-{number}" in found.out for number in range(3))
    members = yaml.safe_load((conf / "hosts" / "found.yaml").read_text())["members"]
    assert [member["address"] for member in members.values()] == network.addresses
    compiled = Running(
        ["--config-dir", conf, "devices=found", "hosts=found", "model=transformers",
         "model.build.architecture=BertModel", "+model.build.config.hidden_size=32",
         "+model.build.config.num_hidden_layers=3", "+model.build.config.num_attention_heads=2",
         "+model.build.config.intermediate_size=64", "model.inputs={input_ids: {shape: [8], dtype: int64}}",
         "schedule=even", "microbatch=1", f"output_dir={out}"], [sys.executable, "-c", COMPILE],
    )  # fmt: skip
    compiled.wait(200.0).expect(0)
    ran = network.run(0, out / "plan.yaml", "--boards", "--verify").expect(0)
    assert "verified: 4 items" in ran.out
    assert "rank 1 on pi-1" in ran.err
    assert network.run(0, "boards", "--output", conf).expect(0)  # its own files may be written again
    (conf / "hosts" / "found.yaml").write_text("members: {}\n")
    network.run(0, "boards", "--output", conf).expect_error("is not a hosts option of edgelaunch boards")


def test_who_is_no_board_has_the_results_too(
    network: Network, plan: launch_plans.Written, x: Path, tmp_path: Path
) -> None:
    """Rank 0 runs at its board: input and results travel, and what it prints is printed here."""
    output, record = tmp_path / "y.npy", tmp_path / "run.json"
    ended = network.run(LAPTOP, plan.path, "--boards", "--input", x, "--output", output, "--run", record, "--verify",
                        "--json").expect(0)  # fmt: skip
    check(output, x)
    assert json.loads(ended.out)["num_items"] == NUM_ITEMS + 6
    assert json.loads(record.read_text())
    for words, why in (
        (["--chat"], "terminal"),
        (["--input", "-"], "terminal"),
        (["--input", tmp_path], "is not a file"),
    ):
        network.run(LAPTOP, plan.path, "--boards", *words).expect_error(why, "pi-0")


def test_links_are_measured_by_the_agents(network: Network, tmp_path: Path) -> None:
    told = json.loads(network.run(LAPTOP, "boards", "--links", "--seconds", "0.05", "--json", "--quiet",
                                  "--output", tmp_path, "--first", "pi-1").expect(0).out)  # fmt: skip
    assert [board["name"] for board in told["boards"]] == ["pi-1", "pi-0", "pi-2"]
    assert len(told["links"]) == 6
    assert all(link["bandwidth_bytes_per_s"] > 1e6 for link in told["links"])
    assert all(abs(board["clock_ahead_s"]) < 1.0 for board in told["boards"])
    assert len(yaml.safe_load((tmp_path / "hosts" / "found.yaml").read_text())["network"]["pairs"]) == 6


def test_a_killed_rank_is_started_again_by_its_agent(
    network: Network, plan: launch_plans.Written, x: Path, tmp_path: Path
) -> None:
    output = tmp_path / "y.npy"
    running = network.start(0, plan.path, "--boards", "--input", x, "--output", output)
    wait_for_results(running, output, 20)
    os.kill(rank_of(2, network), signal.SIGKILL)
    ended = running.wait(120.0).expect(0)
    check(output, x)
    assert "rank 2 (pi-2) was killed by SIGKILL: restarting it" in ended.err


def test_an_agent_that_dies_takes_its_rank_along_and_brings_it_back(
    network: Network, plan: launch_plans.Written, x: Path, tmp_path: Path
) -> None:
    output = tmp_path / "y.npy"
    running = network.start(0, plan.path, "--boards", "--input", x, "--output", output)
    wait_for_results(running, output, 20)
    rank = rank_of(1, network)
    network.agents[1].process.kill()
    network.agents[1].process.wait()
    network.start_agent(1)  # as systemd does
    ended = running.wait(120.0).expect(0)
    check(output, x)
    assert "pi-1" in ended.err
    assert "its agent was started again: starting its rank again" in ended.err
    assert not Path(f"/proc/{rank}").exists()


def test_a_second_caller_is_told_who_was_first(
    network: Network, plan: launch_plans.Written, x: Path, tmp_path: Path
) -> None:
    output = tmp_path / "y.npy"
    running = network.start(0, plan.path, "--boards", "--input", x, "--output", output)
    wait_for_results(running, output, 4)
    network.run(LAPTOP, plan.path, "--boards").expect_error(
        "pi-1", "busy with rank 1 of a run that", network.address(0)
    )
    running.wait(120.0).expect(0)
    check(output, x)


def test_a_run_that_is_interrupted_leaves_no_rank(
    network: Network, plan: launch_plans.Written, x: Path, tmp_path: Path
) -> None:
    output = tmp_path / "y.npy"
    running = network.start(LAPTOP, plan.path, "--boards", "--input", x, "--output", output)
    ranks = [wait_for_rank(number, network) for number in range(3)]
    running.process.send_signal(signal.SIGINT)
    assert running.wait(60.0).code == 130
    assert [rank for rank in ranks if Path(f"/proc/{rank}").exists()] == []
    told = json.loads(network.run(LAPTOP, "boards", "--json").expect(0).out)
    assert [board["busy"] for board in told["boards"]] == ["", "", ""]


def test_joined_boards_are_found_without_mdns(empty: Network) -> None:
    empty.start_agent(0, "--no-mdns").wait_for("is ready")
    for number in (1, 2):
        empty.start_agent(number, "--no-mdns", "--join", empty.address(0)).wait_for("is ready")
    try:
        deadline = time.monotonic() + 30.0
        names: list[str] = []
        while len(names) < 3:
            assert time.monotonic() < deadline, names
            told = json.loads(empty.run(LAPTOP, "boards", "--join", empty.address(0), "--json").expect(0).out)
            names = [board["name"] for board in told["boards"]]
        assert names == ["pi-0", "pi-1", "pi-2"]
        empty.run(LAPTOP, "boards", "--wait", "0.5").expect_error("no board answered by mDNS")
    finally:
        for agent in empty.agents.values():
            end(agent)
        empty.agents.clear()


def test_another_secret_is_one_line(network: Network, plan: launch_plans.Written) -> None:
    other = {"EDGELAUNCH_SECRET": "another secret than theirs"}
    network.run(LAPTOP, "boards", **other).expect_error("the agent there has another secret", network.address(2))
    network.run(LAPTOP, plan.path, "--boards", **other).expect_error("no agent of pi-0", "another secret")
    network.run(LAPTOP, "boards", EDGELAUNCH_SECRET="").expect_error("boards need a shared secret")
    assert processes_of(plan.path) == []


def live_hosts(network: Network, number: int, address: str) -> list[str]:
    """The names of the hosts on the page of a run at an address, as a board sees it."""
    url = f"http://{address}:8080/live/figures"
    asks = f"import urllib.request as r; print(r.urlopen('{url}', timeout=20).read().decode())"
    figures = json.loads(network.run(number, "-c", asks, program=(sys.executable,)).expect(0).out)
    return [host["name"] for host in figures["hosts"].values()]


def test_by_ssh_as_it_is(empty: Network, plan: launch_plans.Written, x: Path, tmp_path: Path) -> None:
    """OpenSSH's own server in each namespace, a key for this test alone."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's client and server")
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        Running(["-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], ["ssh-keygen"]).wait(20.0).expect(0)
    (tmp_path / "sshd_config").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nPidFile none\n"
        "PermitRootLogin yes\nUsePAM no\n"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(
        f"#!/bin/sh\nexec {shutil.which('ssh')} -i {tmp_path}/user -o UserKnownHostsFile={tmp_path}/known "
        '-o StrictHostKeyChecking=no -o LogLevel=ERROR "$@"\n'
    )
    (tmp_path / "bin" / "ssh").chmod(0o755)
    servers = [empty.start(number, "-D", "-f", tmp_path / "sshd_config", program=[sshd]) for number in (1, 2)]
    words = [plan.path, "--ssh", "root@", "--ssh-program", Path(sys.executable).with_name("edgelaunch")]
    environ = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "EDGELAUNCH_SECRET": ""}
    try:
        output = tmp_path / "y.npy"
        ended = empty.run(0, *words, "--input", x, "--output", output, **environ).expect(0)
        check(output, x)
        assert "rank 2 (pi-2): done" in ended.err
        assert SECRET not in ended.err
        caller = empty.start(0, *words, "--items", 100_000, "--web", 8080, **environ)
        caller.wait_for("a live page of this run is at http://127.0.0.1:8080", 90.0)
        assert live_hosts(empty, 0, "127.0.0.1") == ["pi-0", "pi-1", "pi-2"]
        os.kill(caller.process.pid, signal.SIGINT)
        caller.wait()
    finally:
        for server in servers:
            end(server)


def test_rank_0s_board_serves_the_page_and_shows_the_run_to_all(network: Network, plan: launch_plans.Written) -> None:
    caller = network.start(LAPTOP, plan.path, "--boards", "--items", 100_000, "--web", 8080)
    url = f"http://{network.address(0)}:8080"
    caller.wait_for(f"a live page of this run is at {url}", 90.0)
    caller.wait_for("the page has no API key")
    assert live_hosts(network, LAPTOP, network.address(0)) == ["pi-0", "pi-1", "pi-2"]
    master = f"{network.address(0)}:{plan.plan.hosts[0].port}"
    for number in (2, LAPTOP):
        seen = network.run(number, "top", plan.path, "--once", "--json", "--master", master).expect(0)
        assert json.loads(seen.out)["model"] == "tiny"
    network.run(LAPTOP, "top", plan.path, "--once", "--master", master,
                EDGELAUNCH_SECRET="of somebody else altogether").expect_error("is not rank 0's")  # fmt: skip
    listed = network.run(LAPTOP, "top", "--boards").expect(0)
    assert "rank 0 of a run that" in listed.out
    os.kill(caller.process.pid, signal.SIGINT)
    caller.wait()
