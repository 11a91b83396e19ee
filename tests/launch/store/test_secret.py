"""Who may join: the secret, what it protects in the store, and strangers at the ports."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from datetime import timedelta
from pathlib import Path

import launch_plans
import numpy as np
import pytest
import torch.distributed as dist
from launch_harness import Running, free_port, run, wait_all
from launch_meeting import Meeting
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.common.secret import VARIABLE, find_secret
from edgelaunch.store.seal import Seal

SECRET = "correct horse battery staple"
OTHER = "incorrect horse battery staple"


def test_a_value_counts_under_its_key_in_its_run_alone() -> None:
    seal = Seal(b"s" * 16, b"n" * 16)
    sealed = seal.seal("beat/1", b"5")
    assert seal.open("beat/1", sealed) == b"5"
    assert seal.open("beat/2", sealed) is None
    assert seal.open("beat/1", sealed[:-1] + b"6") is None
    assert seal.open("beat/1", b"") is None
    assert Seal(b"s" * 16, b"m" * 16).open("beat/1", sealed) is None
    assert Seal(b"t" * 16, b"n" * 16).open("beat/1", sealed) is None
    assert Seal(b"s" * 16, b"n" * 16).open("beat/1", sealed) == b"5"


def test_where_the_secret_comes_from(three_stages: Written, tmp_path: Path) -> None:
    plan, file = three_stages.plan, tmp_path / "key"
    assert find_secret(plan, "127.0.0.1", None, {}) is None
    assert find_secret(plan, "192.0.2.1", None, {VARIABLE: f" {SECRET}\n"}) == SECRET.encode()
    with pytest.raises(UserError, match="shared secret"):
        find_secret(plan, "192.0.2.1", None, {})
    with pytest.raises(UserError, match="16 or more"):
        find_secret(plan, "127.0.0.1", None, {VARIABLE: "short"})
    with pytest.raises(UserError, match="cannot be read"):
        find_secret(plan, "127.0.0.1", str(file), {})
    file.write_text(SECRET + "\n")
    file.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        find_secret(plan, "127.0.0.1", str(file), {})
    file.chmod(0o600)
    assert find_secret(plan, "192.0.2.1", str(file), {VARIABLE: OTHER}) == SECRET.encode()
    with pytest.raises(UserError, match="regular file"):
        find_secret(plan, "127.0.0.1", "/dev/null", {})


def test_what_strangers_write_is_ignored(two_stages: Written) -> None:
    with Meeting(two_stages.plan, SECRET.encode()) as meeting:
        mine, other = meeting.board, meeting.join(SECRET.encode())
    mine.put("announcement", "ours")
    mine.put("verdict", "")
    assert mine.has("verdict")  # the store acknowledges no set: its next answer on the same connection comes after
    assert other.get("announcement") == "ours"
    assert other.get("verdict") == ""
    for forged in (b"ours", b"", b"\xff" * 40, os.urandom(100)):
        meeting.stranger.set("announcement", forged)
        assert meeting.stranger.check(["announcement"])
        assert other.get("announcement") is None
        assert not other.has("announcement")
    other.append("news", "hello")
    assert other.has("announcement") is False
    meeting.stranger.set(f"news/{meeting.stranger.add('news', 1)}", "hello too")
    assert [mine.take("news", number) for number in (1, 2, 3)] == ["hello", "", None]
    meeting.stranger.set("failure", '{"rank": 1, "kind": "bug", "message": "forged"}')
    assert meeting.stranger.check(["failure"])
    assert mine.failure() is None
    true = Failure(rank=1, kind=FailureKind.USER, message="true")
    other.publish_failure(true)
    assert mine.failure() == true
    mine.publish_failure(Failure(rank=0, kind=FailureKind.USER, message="later"))
    assert mine.failure() == true


@pytest.mark.slow
def test_gloo_meets_through_sealed_values_alone(two_stages: Written) -> None:
    with Meeting(two_stages.plan, SECRET.encode()) as meeting:
        boards = [meeting.board, meeting.join(SECRET.encode())]
    groups: dict[int, object] = {}

    def connect(rank: int, number: int) -> None:
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = timedelta(seconds=3)
        try:
            groups[rank] = dist.ProcessGroupGloo(boards[rank].group_store(number), rank, 2, options)
        except RuntimeError as error:
            groups[rank] = str(error)

    def both(number: int) -> list[object]:
        threads = [threading.Thread(target=connect, args=(rank, number)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return [groups[0], groups[1]]

    assert all(isinstance(group, dist.ProcessGroupGloo) for group in both(1))
    for key in ("0/0", "0/1", "0", "1"):
        meeting.stranger.set(f"epoch-2/{key}", b"\0" * 64)
    connect(1, 2)
    assert not isinstance(groups[1], dist.ProcessGroupGloo)


def rank_commands(written: Written, folder: Path, port: int, count: int) -> list[list[object]]:
    np.save(folder / "x.npy", np.random.default_rng(0).random((count, 4), dtype=np.float32))
    common = ["--master", f"127.0.0.1:{port}"]
    data = ["--input", folder / "x.npy", "--output", folder / "y.npy"]
    return [[written.path, "--rank", rank, *common, *(data if rank == 0 else [])] for rank in range(3)]


def start(command: list[object], secret: str | None) -> Running:
    return Running(command, **{VARIABLE: secret or ""})


@pytest.mark.slow
def test_a_wrong_and_a_missing_secret_do_not_disturb_the_others(tmp_path: Path) -> None:
    written = launch_plans.floats(tmp_path / "plan", num_stages=3, timeout_s=60.0)
    commands = rank_commands(written, tmp_path, free_port(), 9)
    running = [start(commands[0], SECRET), start(commands[1], SECRET)]
    start(commands[2], OTHER).wait().expect_error("is not rank 0's")
    start(commands[2], None).wait().expect_error("asks for a shared secret")
    running[0].wait_for("has a different secret: rejected")
    running.append(start(commands[2], SECRET))
    ended = wait_all(running)
    for item in ended:
        item.expect(0)
    assert "rank 2 (host-2) has a different secret" in ended[0].err
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 8 * np.load(tmp_path / "x.npy"))


@pytest.mark.slow
def test_ranks_on_several_machines_need_one(three_stages: Written) -> None:
    run(three_stages.path, "--rank", 1, "--master", "192.0.2.1:29500", EDGELAUNCH_SECRET="").expect_error(
        "shared secret", "openssl rand"
    )


def ports_of(processes: list[int]) -> set[int]:
    """TCP ports that these processes listen at."""
    inodes = set()
    for process in processes:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            target = os.readlink(entry) if entry.is_symlink() else ""
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[9] in inodes:
            found.add(int(words[1].rpartition(":")[2], 16))
    return found


def disturb(port: int, kind: int, held: list[socket.socket]) -> None:
    try:
        stranger = socket.create_connection(("127.0.0.1", port), timeout=2)
    except OSError:
        return
    held.append(stranger)
    hello = struct.pack("<BI", 0, 0x3C85F7CE)  # what a TCPStore's client begins with
    noise = random.Random(kind).randbytes(4096)
    gloo = struct.pack("<q", kind % 4) + bytes(400)
    texts = [b"", noise, b"GET / HTTP/1.0\r\n\r\n", hello[:2], gloo, hello + bytes([kind % 16]) + noise[:64]]
    try:
        stranger.sendall(texts[kind % len(texts)])
        if kind % 2:
            stranger.close()
    except OSError:
        pass


@pytest.mark.slow
def test_strangers_at_every_port_change_nothing(tmp_path: Path) -> None:
    """Port scans, garbage, half a greeting that is held for ever; at the store and at gloo's ports."""
    count = 60
    written = launch_plans.floats(tmp_path / "plan", num_stages=3, timeout_s=60.0)
    port = free_port()
    commands = rank_commands(written, tmp_path, port, count)
    commands[0] += ["--rate", 15]
    running = [start(command, SECRET) for command in commands]
    held: list[socket.socket] = []
    for item in running:
        item.wait_for("ready")
    for kind in range(50):
        ports = sorted(ports_of([item.process.pid for item in running if item.process.poll() is None]))
        if not ports:
            break
        disturb(ports[kind % len(ports)], kind, held)
        time.sleep(0.02)
    assert len(held) > 40
    for ended in wait_all(running, 90):
        ended.expect(0)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 8 * np.load(tmp_path / "x.npy"))
