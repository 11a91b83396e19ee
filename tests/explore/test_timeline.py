"""What a simulated run did when: drawn, and as a trace for the Perfetto UI."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from explore_plans import make_plan

from edgecompile.commands.plan_command import main
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import write_plan
from edgecompile.explore.export import trace_events
from edgecompile.explore.timeline.simulation import Options, simulate
from edgecompile.explore.timeline.stage_timeline import Row, drawn, rows_of
from edgecompile.planning.from_plan import as_planned

HOSTS = [("data", "box"), ("a", "box"), ("b", "box")]


def plan_of(times: list[float], sizes: list[int], **options: Any) -> Plan:
    assignments = [(index, index, index) for index in range(len(times))]
    return make_plan({"box": times}, HOSTS, sizes, assignments=assignments, **options)


def rows(plan: Plan, microbatches: int = 6) -> list[Row]:
    problem, schedule = as_planned(plan)
    options = Options(num_microbatches=microbatches, trace=(0, microbatches), jitter=1.3, seed=3)
    return rows_of(simulate(problem, schedule, plan.runtime, options), plan.cluster)


SLOW_LAST = plan_of([0.1, 0.1, 0.5], [10, 1000, 1000, 10])
SLOW_LINK = plan_of([0.1, 0.1, 0.1], [10, 1000, 400_000, 10], buffers=(1, 1))


@pytest.mark.parametrize("plan", [SLOW_LAST, SLOW_LINK], ids=["slow stage", "slow link"])
def test_spans_cover_a_stage_s_time_without_overlap(plan: Plan) -> None:
    found = rows(plan)
    assert [row.name for row in found] == [
        "stage 0 on data", "data -> a", "stage 1 on a", "a -> b", "stage 2 on b", "b -> data",
    ]  # fmt: skip
    ends = {row.spans[-1].end_s for row in found if row.name.startswith("stage")}
    for row in found:
        assert all(first.end_s <= second.begin_s + 1e-9 for first, second in pairwise(row.spans))
        assert all(span.end_s > span.begin_s for span in row.spans)
        if row.name.startswith("stage"):
            assert row.spans[0].begin_s == pytest.approx(0)
            gaps = [second.begin_s - first.end_s for first, second in pairwise(row.spans)]
            assert max(gaps) < 1e-9
            assert sum(span.what == "compute" for span in row.spans) == 6
    assert max(ends) == pytest.approx(min(ends))


def test_each_gap_has_its_reason() -> None:
    by_name = {row.name: row for row in rows(SLOW_LAST, 30)}
    assert "waits to send" in {span.what for span in by_name["stage 1 on a"].spans}
    assert by_name["stage 2 on b"].spans[0].what == "fill"
    assert by_name["stage 0 on data"].spans[-1].what == "drain"
    slow_link = {row.name: row for row in rows(SLOW_LINK, 30)}
    assert "waits for input" in {span.what for span in slow_link["stage 2 on b"].spans}


def test_lines_are_as_wide_as_asked() -> None:
    lines = [line.plain for line in drawn(rows(SLOW_LAST), 100)]
    assert len(lines) == 8
    assert {len(line) for line in lines[:7]} == {100}
    assert lines[4].count("#") > 60
    assert lines[4].startswith("stage 2 on b")


def test_show_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(SLOW_LAST, tmp_path / "plan.yaml")
    assert main(["show", str(tmp_path / "plan.yaml"), "--timeline", "--microbatches", "4"]) == 0
    assert "timeline, 4 microbatches, simulated" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "plan.yaml"), "--timeline", "--microbatches", "0"]) == 2


def test_a_trace_holds_every_span(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(SLOW_LAST, tmp_path / "plan.yaml")
    target = tmp_path / "trace.json"
    assert main(["export", str(tmp_path / "plan.yaml"), "--perfetto", str(target), "--microbatches", "20"]) == 0
    events = json.loads(target.read_text())["traceEvents"]
    computed = [event for event in events if event.get("cat") == "compute"]
    assert len(computed) == 60
    assert all(event["dur"] > 0 and event["ts"] >= 0 for event in events if event["ph"] == "X")
    named = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert named == {"data", "a", "b"}
    last = max(event["ts"] + event["dur"] for event in events if event["ph"] == "X")
    assert last == pytest.approx(1e6 * (0.2 + 20 * 0.5), rel=0.02)


def test_events_of_one_thread_are_one_stage_or_link() -> None:
    events = [event for event in trace_events(rows(SLOW_LINK)) if event["ph"] == "X"]
    for thread in {event["tid"] for event in events}:
        kinds = {event["cat"] for event in events if event["tid"] == thread}
        assert kinds == {"send"} or "send" not in kinds


@pytest.mark.parametrize("target", ["no/such/folder/trace.json", "."])
def test_bad_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    write_plan(SLOW_LAST, tmp_path / "plan.yaml")
    assert main(["export", str(tmp_path / "plan.yaml"), "--perfetto", str(tmp_path / target)]) == 2
    assert not (tmp_path / "no").exists()
