"""Ranks that lack their shard get it from rank 0: their own alone, whole, and with the plan's hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import launch_plans
import numpy as np
import pytest
import torch
from launch_harness import Running, free_port, wait_all, wait_for_results
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import weights_path
from edgelaunch.common.identity import Endpoint
from edgelaunch.common.shard_files import files_of
from edgelaunch.store.meeting import Board
from edgelaunch.store.seal import Seal
from edgelaunch.transport.shard_transfer import REQUESTS, ShardServer, TransferContext, fetch_shards

PORTION = 1 << 20


class Boards:
    """A machine of its own for each rank: a folder with the plan alone, but for rank 0's, which holds everything."""

    def __init__(self, written: Written, folder: Path) -> None:
        self.written, self.folder = written, folder
        self.port = free_port()
        for stage in written.plan.stages:
            if stage.rank:
                self.plan(stage.rank).parent.mkdir(parents=True)
                shutil.copy(written.path, self.plan(stage.rank))

    def plan(self, rank: int) -> Path:
        return self.folder / f"board{rank}" / "plan.yaml" if rank else self.written.path

    def shard(self, rank: int) -> Path:
        stage = next(stage for stage in self.written.plan.stages if stage.rank == rank)
        return self.plan(rank).parent / stage.shard

    def start(self, rank: int, *arguments: object) -> Running:
        return Running([self.plan(rank), "--rank", rank, "--master", f"127.0.0.1:{self.port}", *arguments])


@pytest.fixture
def boards(tmp_path: Path) -> Boards:
    return Boards(launch_plans.floats(tmp_path / "plan", num_stages=3, timeout_s=60.0, rejoin_s=60.0), tmp_path)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_ranks_fetch_what_they_lack_and_nothing_else(boards: Boards, tmp_path: Path) -> None:
    stale = boards.shard(2)
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another plan")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((9, 4), dtype=np.float32))
    started = [boards.start(0, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"),
               boards.start(1), boards.start(2)]  # fmt: skip
    ended = [item.expect(0) for item in wait_all(started)]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 8 * np.load(tmp_path / "x.npy"))
    for rank in (1, 2):
        stage = next(stage for stage in boards.written.plan.stages if stage.rank == rank)
        assert files(boards.plan(rank).parent) == {"plan.yaml", stage.shard}
        assert file_sha256(boards.shard(rank)) == stage.sha256
        assert f"fetched {stage.shard}" in ended[rank].err
        assert f"to rank {rank} (host-{rank}), which lacks it" in ended[0].err


@pytest.mark.slow
def test_rank_0_cannot_give_what_it_lacks(boards: Boards) -> None:
    name = next(stage for stage in boards.written.plan.stages if stage.rank == 1).shard
    (boards.written.path.parent / name).unlink()
    started = [boards.start(0), boards.start(1), boards.start(2)]
    ended = wait_all(started[:2])
    started[2].process.kill()  # the run may have ended before it came, and then it waits for one that does not come
    started[2].wait()
    ended[1].expect_error("this rank lacks it", "rank 0 (host-0) cannot send it", "is missing", "copy it again")
    ended[0].expect_error("rank 1 (host-1)", "lacks it")


@pytest.mark.slow
def test_a_lost_board_comes_back_without_its_disk(boards: Boards, tmp_path: Path) -> None:
    """A new board in the place of a dead one, in the middle of a stream."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((120, 4), dtype=np.float32))
    started = [boards.start(0, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--rate", 20),
               boards.start(1), boards.start(2)]  # fmt: skip
    wait_for_results(started[0], tmp_path / "y.npy")
    started[1].process.send_signal(signal.SIGKILL)
    started[1].wait()
    boards.shard(1).unlink()
    started[1] = boards.start(1)
    for item in wait_all(started):
        item.expect(0)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 8 * np.load(tmp_path / "x.npy"))


class Pair:
    """Rank 0's server, and rank 1's side, in this process; the shard and its weights are of any bytes."""

    def __init__(self, folder: Path, num_bytes: int, weights: Sequence[bytes] = ()) -> None:
        (folder / "plan" / "weights").mkdir(parents=True)
        hashes = [hashlib.sha256(data).hexdigest() for data in weights]
        for sha256, data in zip(hashes, weights, strict=True):
            (folder / "plan" / weights_path(sha256)).write_bytes(data)
        written = launch_plans.floats(folder / "plan", num_stages=2)
        self.bytes = np.random.default_rng(1).bytes(num_bytes)
        (folder / "plan" / "big.pt").write_bytes(self.bytes)
        stages = tuple(
            stage if stage.rank == 0 else launch_plans.replace(
                stage, shard="big.pt", sha256=file_sha256(folder / "plan" / "big.pt"), weights=tuple(hashes)
            )
            for stage in written.plan.stages
        )  # fmt: skip
        self.plan = launch_plans.replace(written.plan, stages=stages)
        endpoint = Endpoint(address="127.0.0.1", port=free_port())
        self.board = Board(endpoint, serve=True, timeout_s=5)
        seal = self.board.seal = Seal(b"a secret of sixteen", b"n" * 16)
        (folder / "other").mkdir()
        self.ways = [
            TransferContext(plan=self.plan, folder=folder / name, endpoint=endpoint, seal=seal, rank=rank)
            for rank, name in enumerate(("plan", "other"))
        ]
        self.said: list[str] = []
        self.server = ShardServer(self.ways[0], self.said.append)
        self.target = folder / "other" / "big.pt"
        self.files = files_of(self.plan, 1)
        self.part = self.target.with_name(f".big.pt.{self.files[-1].sha256[:16]}.part")

    def fetch(self, way: TransferContext | None = None) -> list[str]:
        said: list[str] = []
        fetch_shards(way or self.ways[1], files_of(self.plan, 1), said.append)
        return said


@pytest.mark.slow
@pytest.mark.parametrize("num_bytes", [0, 1, PORTION, 9 * PORTION + 12345])
def test_every_size_arrives_whole(tmp_path: Path, num_bytes: int) -> None:
    pair = Pair(tmp_path, num_bytes)
    if num_bytes == 0:
        pair.part.write_bytes(b"")
    pair.fetch()
    assert pair.target.read_bytes() == pair.bytes
    assert not pair.part.exists()
    pair.server.stop()


@pytest.mark.slow
def test_a_broken_transfer_goes_on_and_a_damaged_one_begins_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path, 5 * PORTION + 7)
    pair.part.write_bytes(pair.bytes[: 2 * PORTION + 100])
    assert any("resuming after 2.1 MB" in line for line in pair.fetch())
    assert pair.target.read_bytes() == pair.bytes
    for wrong in (b"x" * (PORTION // 2), b"x" * (6 * PORTION), b"x" * len(pair.bytes)):
        pair.target.unlink()
        pair.part.write_bytes(wrong)
        pair.fetch()
        assert pair.target.read_bytes() == pair.bytes
    pair.server.stop()


@pytest.mark.slow
def test_weights_come_with_the_shard_and_a_broken_transfer_goes_on_between_them(tmp_path: Path) -> None:
    given = [np.random.default_rng(seed).bytes(size) for seed, size in enumerate((5, 3 * PORTION + 1, 0, PORTION))]
    pair = Pair(tmp_path, 1000, given)
    there = [tmp_path / "other" / file.name for file in pair.files]
    said = pair.fetch()
    assert [path.read_bytes() for path in there] == [*given, pair.bytes]
    assert any("big.pt and 4 files of weights" in line for line in said)
    assert any("which lacks them" in line for line in pair.said)
    for missing, wrong in ((1, b""), (1, given[1][: PORTION + 3]), (1, b"x" * PORTION), (2, b"x"), (3, given[3])):
        for path in there[missing:]:
            path.unlink()
        part = there[missing].with_name(f".{there[missing].name}.{pair.files[missing].sha256[:16]}.part")
        part.write_bytes(wrong)
        said = []
        fetch_shards(pair.ways[1], pair.files[missing:], said.append)
        assert [path.read_bytes() for path in there] == [*given, pair.bytes]
        assert any("resuming" in line for line in said) is (bool(wrong) and missing != 2)
    assert {path.name for path in (tmp_path / "other" / "weights").iterdir()} == {path.name for path in there[:-1]}
    pair.server.stop()


def test_no_rank_gets_another_ranks_shard(tmp_path: Path) -> None:
    pair = Pair(tmp_path, 100)
    own = files_of(pair.plan, 0)[0]
    pair.board.append(REQUESTS, json.dumps({"rank": 1, "token": "t", "files": [own.sha256], "offset": 0}))
    deadline = time.monotonic() + 10
    while (text := pair.board.get("fetch-answer/t")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "another plan" in json.loads(text)["error"]
    pair.server.stop()


def test_strangers_get_nothing_and_stop_nothing(tmp_path: Path) -> None:
    pair = Pair(tmp_path, 1000)
    board = Board(pair.ways[0].endpoint, serve=False, timeout_s=5, seal=Seal(b"another secret..", b"n" * 16))
    sha256 = files_of(pair.plan, 1)[0].sha256
    board.append(REQUESTS, json.dumps({"rank": 1, "token": "t", "files": [sha256], "offset": 0}))
    pair.fetch()
    assert pair.target.read_bytes() == pair.bytes
    assert pair.board.get("fetch-answer/t") is None
    pair.server.stop()


def test_no_room_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(tmp_path, 1000)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="not enough space"):
        pair.fetch()
    assert not pair.part.exists()
    pair.server.stop()


def test_a_rank_that_asks_and_dies_holds_nobody_up(tmp_path: Path) -> None:
    pair = Pair(tmp_path, 3 * PORTION)
    sha256 = files_of(pair.plan, 1)[0].sha256
    pair.board.append(REQUESTS, json.dumps({"rank": 1, "token": "gone", "files": [sha256], "offset": 0}))
    pair.fetch()
    assert pair.target.read_bytes() == pair.bytes
    pair.server.stop()


@pytest.mark.slow
def test_transfers_leave_no_descriptors_and_no_threads(tmp_path: Path) -> None:
    pair = Pair(tmp_path, 2 * PORTION)
    torch.zeros(1)

    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    pair.fetch()
    counts = []
    for _ in range(4):
        pair.target.unlink()
        pair.fetch()
        time.sleep(0.5)
        counts.append(count())
    assert counts[-1][0] <= counts[0][0] + 2, counts
    assert counts[-1][1] <= counts[0][1] + 1, counts
    pair.server.stop()
