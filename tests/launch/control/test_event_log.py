"""What a run's events are in logs: words, levels, fields; in lines with time and level, and as JSON."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from pathlib import Path
from typing import Any

import launch_plans
import numpy as np
import pytest
from launch_harness import Running, rank_process, wait_for_results
from launch_plans import Written

from edgelaunch.common.rank_log import RankLog
from edgelaunch.control.core import run_events
from edgelaunch.control.core.membership import Process
from edgelaunch.control.core.roster import Member
from edgelaunch.control.core.run_events import Loss, LossKind, RunEvent
from edgelaunch.control.event_log import LateBeats, log_event

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
LOSS = Loss(rank=1, kind=LossKind.SILENT, process=12, silent_s=1.23456)
Line = dict[str, Any]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("logs")
    return launch_plans.with_contingencies(launch_plans.floats(folder, 3, launch_plans.Heavy(), detect_s=1.5))


def logged(plan: Written, *events: RunEvent) -> list[Line]:
    lines: list[Line] = []
    log = RankLog(plan.plan, 0, tell=lambda text, **more: lines.append({"text": text, **more}))
    for event in events:
        log_event(log, plan.plan, event)
    return lines


def test_a_loss_is_a_warning_with_rank_and_host(plan: Written) -> None:
    (line,) = logged(plan, run_events.RankLost(1.0, LOSS, 20))
    assert (line["level"], line["event"], line["detail"]) == (logging.WARNING, "rank_lost", False)
    assert (line["lost_rank"], line["lost_host"], line["kind"], line["num_items"]) == (1, "host-1", "silent", 20)
    assert line["silent_s"] == 1.235
    assert "rank 1 (host-1" in line["text"]


def test_an_epoch_is_named_by_all_lines_that_follow(plan: Written) -> None:
    began = run_events.EpochBegan(1.0, 3, "host-2", 10.0, 20.0)
    lines = logged(plan, run_events.RankJoined(0.5, 2, "secret"), began, run_events.ResultsAgain(2.0, 0.5))
    assert [line["epoch"] for line in lines] == [0, 3, 3]
    assert [line["event"] for line in lines] == ["rank_joined", "epoch_began", "results_again"]
    assert (lines[0]["joined_rank"], lines[0]["joined_host"], lines[0]["detail"]) == (2, "host-2", True)
    assert "secret" not in str(lines[0])
    assert (lines[1]["without"], lines[1]["predicted_items_per_s"], lines[1]["planned_items_per_s"]) == (
        "host-2", 10.0, 20.0,
    )  # fmt: skip
    assert {line["level"] for line in lines} == {logging.INFO}


def test_a_cut_link_names_both_ends_and_one_that_healed_is_no_warning(plan: Written) -> None:
    cut, healed, alone = logged(
        plan, run_events.LinkCut(1.0, (1, 2), 1.5, 7), run_events.LinkHealed(2.0, (1, 2), 1.0, both=True),
        run_events.LinkHealed(2.0, (1, 2), 1.0, both=False),
    )  # fmt: skip
    assert (cut["level"], cut["ranks"], cut["hosts"]) == (logging.WARNING, [1, 2], ["host-1", "host-2"])
    assert (healed["level"], healed["detail"], alone["detail"]) == (logging.INFO, False, True)


def test_a_late_heartbeat_is_told_once_until_the_rank_is_heard_of_again(plan: Written) -> None:
    lines: list[Line] = []
    late = LateBeats(plan.plan, RankLog(plan.plan, 0, tell=lambda text, **more: lines.append({"text": text, **more})))
    member = Member("one", Process(), 10.0)
    for now in (10.1, 10.6, 10.8):
        late.look([None, member, None], now)
    assert [(line["level"], line["event"], line["late_rank"]) for line in lines] == [
        (logging.DEBUG, "late_heartbeat", 1)
    ]
    heard = Member("one", member.process, 11.0)
    for now in (11.0, 11.7):
        late.look([None, heard, None], now)
    assert len(lines) == 2


def test_a_quiet_rank_says_nothing(plan: Written) -> None:
    RankLog(plan.plan, 0, quiet=True, tell=lambda text, **more: pytest.fail(text))("text")


def killed(plan: Written, tmp_path: Path, *options: str) -> str:
    """What a run writes on standard error in which rank 2 is killed; its results are checked."""
    x = np.random.default_rng(0).random((120, 4), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    output = tmp_path / "y.npy"
    running = Running([plan.path, "--local", "--input", tmp_path / "x.npy", "--output", output, *options])
    wait_for_results(running, output, 20)
    os.kill(rank_process(plan.path, 2), signal.SIGKILL)
    ended = running.wait().expect(0)
    np.testing.assert_allclose(np.load(output), 4 * x, rtol=1e-6)
    return ended.err


@pytest.mark.slow
def test_the_log_in_json_of_a_run_with_a_killed_rank(plan: Written, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in killed(plan, tmp_path, "--log-json", "--log-level", "debug").splitlines()]
    for line in lines:
        assert list(line)[:7] == ["time", "level", "rank", "host", "epoch", "event", "message"]
        assert re.fullmatch(TIME, line["time"])
    by_event = {
        event: [line for line in lines if line["event"] == event] for event in {line["event"] for line in lines}
    }
    (lost,) = by_event["rank_lost"]
    assert (lost["level"], lost["rank"], lost["lost_rank"], lost["lost_host"]) == ("warning", 0, 2, "host-2")
    (again,) = by_event["restarting"]
    assert (again["level"], again["rank"], again["lost_rank"], again["lost_host"]) == ("warning", None, 2, "host-2")
    numbers = [line["epoch"] for line in by_event["epoch_began"]]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > lost["epoch"]
    assert by_event["results_again"][-1]["epoch"] == numbers[-1]
    assert {line["rank"] for line in by_event["connected"] if line["epoch"] == 1} == {0, 1, 2}
    assert {line["level"] for line in by_event["connected"]} == {"debug"}
    assert {line["rank"] for line in by_event["done"]} == {1, 2}


@pytest.mark.slow
def test_warnings_alone_have_time_level_rank_and_epoch(plan: Written, tmp_path: Path) -> None:
    lines = killed(plan, tmp_path, "--log-level", "warning").splitlines()
    forms = [rf"{TIME} warning edgelaunch: rank 2 \(host-2\) was killed by SIGKILL: restarting it",
             rf"{TIME} warning rank 0 \(host-0\), epoch \d+: rank 2 \(host-2, units 2-2\) is gone: .*"]  # fmt: skip
    assert len(lines) == 2
    assert all(re.fullmatch(form, line) for form, line in zip(forms, lines, strict=True)), lines


@pytest.mark.slow
def test_a_terminal_is_told_what_it_was(plan: Written, tmp_path: Path) -> None:
    said = killed(plan, tmp_path)
    assert "edgelaunch: rank 2 (host-2) was killed by SIGKILL: restarting it\n" in said
    assert "rank 0 (host-0): results again" in said
    assert " joined" not in said
    assert not re.search(TIME, said)
