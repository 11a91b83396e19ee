"""`edgelaunch doctor`: what it looks at, what it says, and its exit status."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import launch_plans
import pytest
import torch
from launch_harness import free_port, run, run_ranks
from launch_plans import Written

from edgecompile.contract.cluster import Limits
from edgelaunch.common.identity import Endpoint
from edgelaunch.doctor.check_network import judge_links
from edgelaunch.doctor.findings import FAILS, NOTE, OK, Finding
from edgelaunch.doctor.rank_checks import examine
from edgelaunch.link_test.hosts_option import Figures
from edgelaunch.store import tcp_store


def findings(written: Written, rank: int, **endpoint: object) -> dict[str, Finding]:
    where = Endpoint(**{"address": "127.0.0.1", "port": free_port(), **endpoint})  # type: ignore[arg-type]
    return {item.check: item for item in examine(written.plan, written.path.parent, (rank,), where)}


def with_limits(written: Written, rank: int, **figures: object) -> Written:
    hosts = list(written.plan.hosts)
    limits = Limits(**{"memory_bytes": 10**12, **figures})  # type: ignore[arg-type]
    hosts[rank] = replace(hosts[rank], limits=limits)
    written.plan = replace(written.plan, hosts=tuple(hosts))
    return written


def test_all_is_well(three_stages: Written) -> None:
    found = findings(three_stages, 0)
    assert {item.verdict for item in found.values()} == {OK}, found
    assert {
        "Python",
        "torch",
        "torchscript",
        "gloo",
        "address",
        "port",
        "clock",
        "cores",
        "memory",
        "disk",
        "store",
    } <= set(found)
    assert "as the plan has them" in found["shard"].found
    assert three_stages.plan.golden.file in found["files"].found


@pytest.mark.slow
def test_json_has_every_finding(three_stages: Written) -> None:
    found = json.loads(run("doctor", three_stages.path, "--local", "--json", "--quiet").expect(0).out)
    assert found["ranks"] == [0, 1, 2]
    assert found["well"] is True
    assert {"torch", "gloo", "memory"} <= {item["check"] for item in found["findings"]}


@pytest.mark.slow
def test_local_prints_a_table_and_ends_well(three_stages: Written) -> None:
    ended = run("doctor", three_stages.path, "--local").expect(0)
    assert "3 ranks on this machine" in ended.out
    assert "torchscript" in ended.out
    assert "FAILS" not in ended.out


@pytest.mark.slow
def test_missing_and_damaged_shards(tmp_path: Path) -> None:
    written = launch_plans.three_stages(tmp_path)
    folder = written.path.parent
    (folder / written.plan.stages[1].shard).write_bytes(b"no shard")
    item = findings(written, written.plan.stages[1].rank)["shard"]
    assert item.verdict == NOTE
    assert "damaged or belongs to another plan" in item.found
    assert "fetched from rank 0" in item.fix
    (folder / written.plan.stages[2].shard).unlink()
    ended = run("doctor", written.path, "--rank", written.plan.stages[2].rank, "--master", f"127.0.0.1:{free_port()}")
    assert "missing" in ended.expect(0).out
    own = next(stage for stage in written.plan.stages if stage.rank == 0)
    (folder / own.shard).unlink()
    ended = run("doctor", written.path, "--rank", 0, "--master", f"127.0.0.1:{free_port()}")
    ended.expect_error("1 check failed (shard)")
    assert "copy it again" in ended.out


def test_golden_items_are_rank_0s(tmp_path: Path) -> None:
    written = launch_plans.three_stages(tmp_path)
    (written.path.parent / written.plan.golden.file).write_bytes(b"")
    assert findings(written, 0)["files"].verdict == FAILS
    assert "files" not in findings(written, 1)


def test_memory_against_the_plan(tmp_path: Path) -> None:
    written = launch_plans.three_stages(tmp_path)
    stages = tuple(
        replace(stage, predicted=replace(stage.predicted, memory_bytes=10**15)) for stage in written.plan.stages
    )
    written.plan = replace(written.plan, stages=stages)
    item = findings(written, 1)["memory"]
    assert item.verdict == FAILS
    assert "1,000 TB" in item.found


@pytest.mark.slow
def test_a_taken_port(three_stages: Written) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert findings(three_stages, 0, port=port)["port"].verdict == FAILS
        assert findings(three_stages, 1, port=port)["rank 0"].verdict == OK
    assert findings(three_stages, 1, port=free_port())["rank 0"].verdict == NOTE
    assert findings(three_stages, 0, address="192.0.2.1")["port"].verdict == FAILS


class OldStore:
    """TCPStore of torch 2.6 and 2.7, or of a torch without libuv: it refuses a listening socket unless told."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.broken = False

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) > 6:
            self.asked.append(arguments[8])
            if arguments[8] or self.broken:
                raise NotImplementedError(
                    "The libuv TCPStore backend does not support initialization with an listen fd"
                )
        return TCPSTORE(*arguments)


TCPSTORE = tcp_store.TCPStore


@pytest.fixture
def old_store(monkeypatch: pytest.MonkeyPatch) -> OldStore:
    store = OldStore()
    monkeypatch.setattr(tcp_store, "TCPStore", store)
    return store


@pytest.mark.parametrize(("version", "asked"), [("2.6.0+cu124", [False]), ("2.7.1", [False]), ("2.9.0", [True, False])])
def test_a_torch_whose_store_takes_no_listening_socket(
    three_stages: Written, old_store: OldStore, monkeypatch: pytest.MonkeyPatch, version: str, asked: list[bool]
) -> None:
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    assert findings(three_stages, 0)["store"].verdict == OK
    assert old_store.asked == asked, "asked with libuv, the old ones log an error"


def test_a_torch_that_serves_no_store(three_stages: Written, old_store: OldStore) -> None:
    old_store.broken = True
    item = findings(three_stages, 0)["store"]
    assert item.verdict == FAILS
    assert "cannot serve the store where the ranks meet (The libuv" in item.found
    assert "install another" in item.fix
    assert "store" not in findings(three_stages, 1), "rank 0 alone serves"


def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    written = launch_plans.three_stages(tmp_path)
    hosts = list(written.plan.hosts)
    hosts[1] = replace(hosts[1], address="no-such-board.invalid")
    written.plan = replace(written.plan, hosts=tuple(hosts))
    assert findings(written, 1)["name"].verdict == FAILS
    assert findings(written, 2)["name"].verdict == NOTE


def test_a_plan_from_the_future(tmp_path: Path) -> None:
    written = launch_plans.three_stages(tmp_path)
    os.utime(written.path, (time.time() + 86400, time.time() + 86400))
    item = findings(written, 1)["clock"]
    assert item.verdict == NOTE
    assert "1440 minutes newer" in item.found


def test_links_beside_the_plan(three_stages: Written) -> None:
    written = with_limits(three_stages, 1, bandwidth_bytes_per_s=1.25e7)
    written = with_limits(written, 0, bandwidth_bytes_per_s=1.25e7)
    measured = {(0, 1): Figures(bandwidth_bytes_per_s=1.2e7, latency_s=1e-4),
                (1, 0): Figures(bandwidth_bytes_per_s=2e6, latency_s=1e-4)}  # fmt: skip
    good, bad = judge_links(written.plan, measured)
    assert good.verdict == OK
    assert bad.verdict == FAILS
    assert "16 Mbit/s, the plan counts on 100 Mbit/s" in bad.found


@pytest.mark.slow
def test_links_are_measured_together(three_stages: Written) -> None:
    master = f"127.0.0.1:{free_port()}"
    commands = [("doctor", three_stages.path, "--rank", rank, "--master", master, "--links", "--seconds", "0.02")
                for rank in range(3)]  # fmt: skip
    for ended in run_ranks(commands):
        ended.expect(0)


@pytest.mark.slow
def test_bad_arguments(three_stages: Written) -> None:
    run("doctor", three_stages.path, "--local", "--rank", "1").expect_error("--local")
    run("doctor", three_stages.path, "--rank", "7").expect_error("--rank 7 is out of range")
    run("doctor", "no-such-plan.yaml").expect_error("no-such-plan.yaml")
