"""`edgelaunch top`: what it shows of runs on this machine, once, as JSON, in plain lines and on a terminal."""

from __future__ import annotations

import io
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import launch_plans
import pytest
from launch_harness import Running, on_a_terminal, rank_process, run
from rich.console import Console

from edgecompile.contract.errors import UserError
from edgecompile.contract.run_record import Percentiles
from edgelaunch.commands.launch_command import main
from edgelaunch.control.pipeline_state import Event, HostState, LinkState, PipelineState
from edgelaunch.request.parsers import parse
from edgelaunch.request.top_request import TopRequest
from edgelaunch.watching.top_view import draw, line_of, status_of

STATE = PipelineState(
    number=1, model="tiny", at=0.0, ready=True, epoch=2, num_items=1234, items_per_s=99.5, predicted_per_s=110.0,
    num_in_flight=4, latency=Percentiles(count=9, p50_s=0.02, p95_s=0.03, p99_s=0.04, max_s=0.05),
    predicted_latency_s=0.018, bottleneck="stage 1 on pi (97% busy)", predicted_bottleneck="stage 0 on nano",
    hosts=(
        HostState(rank=0, name="nano", stage=0, busy=0.5, predicted_busy=0.9, memory_bytes=812_000_000,
                  predicted_memory_bytes=900_000_000),
        HostState(rank=1, name="pi", stage=1, busy=0.97, bottleneck=True, num_lost=2, num_restarts=2),
    ),
    links=(LinkState(boundary=1, source=0, destination=1, bytes_per_s=1.25e6, limit_bytes_per_s=2.5e6),),
    events=(Event(at=0.0, kind="rank-lost", text="rank 1 (pi) is gone", rank=1),),
)  # fmt: skip


def shown(state: PipelineState, width: int = 120) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(draw(state))
    return file.getvalue()


def test_the_view_has_measured_beside_predicted() -> None:
    text = shown(STATE)
    for part in ("99.5 items/s", "110 items/s", "20 ms", "18 ms", "4 in flight", "2 of 2 ranks", "812 MB", "900 MB",
                 "97%", "pi <- bottleneck", "nano -> pi", "10 Mbit/s", "20 Mbit/s", "50%", "rank 1 (pi) is gone",
                 "bottleneck: stage 1 on pi (97% busy); predicted: stage 0 on nano"):  # fmt: skip
        assert part in text, (part, text)


def test_a_lost_host_is_said_to_be() -> None:
    hosts = (STATE.hosts[0], replace(STATE.hosts[1], state="lost", busy=None, bottleneck=False))
    lost = replace(STATE, hosts=hosts, ready=False)
    assert status_of(lost) == "pi lost: waiting"
    assert "lost" in shown(lost).splitlines()[6]
    assert "1 of 2 ranks" in shown(lost)
    assert status_of(replace(lost, ready=True)) == "pi lost"
    assert status_of(replace(STATE, ready=False)) == "the ranks connect"
    assert status_of(replace(STATE, ended=True)) == "done"


def test_one_line_for_logs() -> None:
    line = line_of(STATE)
    assert "\n" not in line
    assert line.endswith(
        "tiny: running, 99.5 items/s (predicted 110), latency 20 ms, 4 in flight, busy: nano 50%, pi 97%"
    )
    bare = replace(STATE, items_per_s=None, latency=None, hosts=())
    assert line_of(bare).endswith("tiny: running, \u2013 (predicted 110), 4 in flight")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["top", "--master", "a:1"], "name the plan, too"),
        (["top", "plan.yaml", "--join", "a"], "leave out the plan"),
        (["top", "--every", "0"], "invalid value 0 for --every"),
    ],
)
def test_what_does_not_go_together(words: list[str], part: str) -> None:
    with pytest.raises(UserError, match=part):
        parse(words)


def test_a_plan_may_be_left_out() -> None:
    assert parse(["top"]) == TopRequest()
    assert parse(["top", "plan.yaml", "--once"]) == TopRequest(plan_path=Path("plan.yaml"), once=True)


def test_where_nothing_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("edgelaunch.commands.top_command.runs_here", list)
    assert main(["top"]) == 0
    assert "no pipeline of this user runs" in capsys.readouterr().out
    assert main(["top", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": [], "boards": []}
    assert main(["top", "nowhere.yaml"]) == 2


@pytest.mark.slow
def test_a_run_here_is_listed_and_shown_and_a_killed_rank_with_it(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path / "plan", rejoin_s=40.0).path
    running = Running([plan, "--local", "--items", 2000, "--rate", 100, "--restarts", 3])
    try:
        running.wait_for("item 0")
        (found,) = (
            item for item in json.loads(run("top", "--json").expect(0).out)["runs"] if item["plan"] == str(plan)
        )
        assert (found["rank"], found["model"], found["state"]["ready"]) == (0, "tiny", True)
        assert str(plan) in run("top").expect(0).out
        once = run("top", plan, "--once").expect(0)
        assert "host-0 -> host-1" in once.out
        assert once.err == ""
        state = json.loads(run("top", plan, "--once", "--json").expect(0).out)
        assert state["num_items"] > 0
        assert all(host["memory_bytes"] > 1 << 20 for host in state["hosts"])
        watching = Running(["top", plan, "--json", "--every", 0.2])
        watching.wait_for('"model"')
        os.kill(rank_process(plan, 1), signal.SIGKILL)
        watching.wait_for("rank-lost")
        watching.wait_for('"num_restarts": 1')
        os.kill(watching.process.pid, signal.SIGINT)
        assert watching.wait().expect(0).err == ""
    finally:
        os.kill(running.process.pid, signal.SIGTERM)
        running.wait()


@pytest.mark.slow
def test_a_terminal_gets_a_live_view_until_the_run_ends(tmp_path: Path) -> None:
    plan = launch_plans.floats(tmp_path / "plan").path
    running = Running([plan, "--local", "--items", 500, "--rate", 100])
    running.wait_for("item 0")
    status, errors, seen = on_a_terminal(["top", plan], "stdout")
    assert (status, errors) == (0, "")
    assert b"host-1" in seen
    assert b"the pipeline has ended" in seen
    running.wait().expect(0)
