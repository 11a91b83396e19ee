"""Ranks by ssh, with a program of that name that starts them here."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import launch_plans
import numpy as np
import pytest
from launch_harness import Running, free_port, processes_of

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.boards.discovery import own_addresses
from edgelaunch.boards.ssh_rank import check_ssh
from edgelaunch.request.board_addresses import read_login

SSH = """#!/bin/sh
echo "$@" >> {folder}/called
while [ $# -gt 2 ]; do shift; done
{before}
exec sh -c "$2"
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Where the ssh of this test is."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "ssh"
    path.write_text(SSH.format(folder=tmp_path, before=""))
    path.chmod(0o755)
    return path


@pytest.fixture
def written(tmp_path: Path) -> launch_plans.Written:
    address = next(iter(own_addresses()), None)
    if address is None:
        pytest.skip("this machine has no address but the loopback's")

    def named(plan: Plan) -> Plan:
        hosts = tuple(replace(host, name=f"pi-{host.rank}") for host in plan.hosts)
        return replace(plan, hosts=hosts, cluster=tuple(host.name for host in hosts))

    return launch_plans.floats(tmp_path / "plan", 2, addresses=[address] * 2, port=free_port(), change=named)


def start(written: launch_plans.Written, program: Path, *words: object) -> Running:
    environ = {"PATH": f"{program.parent}:{os.environ['PATH']}", "XDG_STATE_HOME": str(program.parent.parent / "state")}
    edgelaunch = f"{sys.executable} -m edgelaunch"
    return Running([written.path, "--ssh", "pi@", "--ssh-program", edgelaunch, *words], EDGELAUNCH_SECRET="", **environ)


@pytest.mark.slow
def test_ranks_by_ssh_have_the_results(written: launch_plans.Written, program: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((7, 4), dtype=np.float32)
    np.save(tmp_path / "x.npy", rows)
    running = start(written, program, "--verify", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    ended = running.wait().expect(0)
    assert "verified: 6 items" in ended.out
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 4 * rows)
    called = (tmp_path / "called").read_text()
    assert "BatchMode=yes" in called
    assert f" pi@{written.plan.hosts[1].address} " in called
    assert processes_of(written.path) == []


REFUSALS = {
    "echo 'pi@host: Permission denied (publickey).' >&2; exit 255": ("Permission denied", "ssh-copy-id"),
    "echo 'sh: 1: edgelaunch: not found' >&2; exit 127": ("is not there", "--ssh-program PATH"),
    "echo 'Welcome'; exit 0": ("Welcome", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("before", REFUSALS, ids=["key", "program", "shell"])
def test_why_ssh_fails_is_one_line(written: launch_plans.Written, program: Path, before: str) -> None:
    program.write_text(SSH.format(folder=program.parent.parent, before=before))
    start(written, program).wait().expect_error(*REFUSALS[before])


def test_without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="openssh-client"):
        check_ssh()


@pytest.mark.parametrize("word", ["-oProxyCommand=x@", "pi", "pi@host", "a b@", "@"])
def test_a_login_is_a_user_alone(word: str) -> None:
    with pytest.raises(UserError, match="expected USER@"):
        read_login(word)


def test_logins() -> None:
    assert [read_login(word) for word in ("", "pi@", "user.name@")] == ["", "pi@", "user.name@"]
