"""Hydra multirun: a plan for each point, one table of this sweep, failures as rows."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from compiler_helpers import Command, command, hand_written

from edgecompile.contract.plan_file import read_plan
from edgecompile.sweep.plot import write_plot
from edgecompile.sweep.table import common_overrides, swept_keys, swept_values, table_parts
from edgecompile.terminal.console import table_console


@pytest.mark.slow
def test_a_sweep_writes_plans_and_names_the_best(tmp_path: Path) -> None:
    done = command("edgecompile.commands.compile_command", "-m", *hand_written("Tied"), "microbatch=1,2,0,4",
                   folder=tmp_path, path=Path(__file__).parents[1])  # fmt: skip
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "outputs" / "multirun"
    plans = {job: read_plan(sweep / str(job) / "plan.yaml") for job in (0, 1, 3)}
    assert [plan.model.microbatch for plan in plans.values()] == [1, 2, 4]
    assert not (sweep / "2" / "plan.yaml").exists()
    best = max(plans, key=lambda job: plans[job].predicted.throughput_items_per_s)
    assert f"best: job {best} (" in done.stdout
    header = next(line for line in done.stdout.splitlines() if "head-room" in line)
    assert [cell.strip() for cell in header.split("┃")][1:3] == ["job", "microbatch"]
    (marked,) = [line for line in done.stdout.splitlines() if line.endswith("│ best │")]
    assert [cell.strip() for cell in marked.split("│")][1:3] == [str(best), str(plans[best].model.microbatch)]
    assert "job 2: invalid value 0 for microbatch" in done.stdout
    manifest = json.loads((sweep / "manifest.json").read_text())
    assert [job["plan"] for job in manifest["jobs"]] == [f"{job}/plan.yaml" for job in range(4)]
    lines = done.stdout.strip().splitlines()
    assert "memory head-room" in done.stdout
    title = next(line for line in lines if line.startswith("sweep of model=custom"))
    assert "[7]" in title + lines[lines.index(title) + 1]  # brackets are not rich markup
    assert lines[-1] == "plot: outputs/multirun/sweep.svg"
    least = min(
        1 - stage.predicted.memory_bytes / plan.hosts[stage.rank].limits.memory_bytes
        for plan in (plans[3],)
        for stage in plan.stages
    )
    assert manifest["jobs"][3]["memory_headroom"] == pytest.approx(least)
    table = list(csv.DictReader(io.StringIO((sweep / "sweep.csv").read_text())))
    assert [line["microbatch"] for line in table] == ["1", "2", "0", "4"]
    assert [line["throughput_items_per_s"] for line in table] == [
        "" if job == 2 else str(plans[job].predicted.throughput_items_per_s) for job in range(4)
    ]
    assert table[2]["error"].startswith("invalid value 0 for microbatch")
    assert ElementTree.parse(sweep / "sweep.svg").getroot().tag.endswith("svg")


@pytest.mark.slow
def test_an_earlier_sweeps_points_are_not_in_the_table(main_here: Command, tmp_path: Path) -> None:
    for points in ("1,2,3", "4"):
        done = main_here("-m", *hand_written("Tied"), f"microbatch={points}")
        assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "outputs/multirun/manifest.json").read_text())["jobs"]) == 1


def test_a_sweep_without_a_plan_fails(main_here: Command, tmp_path: Path) -> None:
    done = main_here("-m", *hand_written("Tied"), "microbatch=0,-1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.svg"))


@pytest.mark.slow
def test_schedulers_are_compared_without_shards(main_here: Command, tmp_path: Path) -> None:
    done = main_here("-m", *hand_written("Tied"), "schedule=exact,even,single", "artifact=none")
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "outputs/multirun"
    plans = [read_plan(sweep / str(job) / "plan.yaml") for job in range(3)]
    assert [plan.scheduling.method for plan in plans] == ["exact", "even", "single"]
    assert not any(plan.has_shards for plan in plans)
    assert {path.suffix for path in sweep.rglob("*") if path.is_file()} == {".yaml", ".json", ".csv", ".svg"}
    table = list(csv.DictReader(io.StringIO((sweep / "sweep.csv").read_text())))
    assert [line["schedule"] for line in table] == ["exact", "even", "single"]
    assert [line["bottleneck"] for line in table] == [plan.predicted.bottleneck for plan in plans]


def row(job: int, overrides: str, throughput: float | None = 10.0) -> dict[str, Any]:
    result: dict[str, Any] = {"job": job, "overrides": overrides.split(), "error": None if throughput else "no"}
    return result | ({"throughput_items_per_s": throughput, "latency_s": 0.1} if throughput else {})


LONG = "model.build.config.some_key=" + "x" * 300
ROWS = {
    "one point": [row(0, "microbatch=1")],
    "one line": [row(0, "microbatch=1"), row(1, "microbatch=8", 20.0)],
    "points without a plan": [row(0, "microbatch=0", None), row(1, "microbatch=1"), row(2, "microbatch=2", None)],
    "two series": [row(i, f"microbatch={m} wire={w}") for i, (m, w) in enumerate([(1, "a"), (2, "a"), (1, "b")])],
    "no microbatch": [row(0, "wire=fp32"), row(1, "wire=int8", None), row(2, f"wire=[a,b] {LONG}")],
    "many": [row(i, f"microbatch={i % 3} hosts.count={i // 3} {LONG}") for i in range(90)],
    "the same again": [row(0, "microbatch=2"), row(1, "microbatch=2")],
    "dollars and angles": [row(0, "microbatch=1 model=$x^2$<b>"), row(1, "microbatch=2 model=_y_&")],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_any_sweep_has_a_picture(tmp_path: Path, name: str) -> None:
    for number in (1, 2):
        write_plot(ROWS[name], tmp_path / f"{number}.svg")
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "1.svg").getroot().tag.endswith("svg")
    assert len(list(tmp_path.iterdir())) == 2


def test_swept_keys_have_a_column_each() -> None:
    rows = [
        row(0, "model=x +a.b=1 wire=fp32"),
        row(1, "model=x +a.b=2 wire=fp32 ~c"),
        row(2, "model=x +a.b=2 wire=int8"),
    ]
    assert swept_keys(rows) == ["a.b", "wire", "c"]
    assert [swept_values(item, swept_keys(rows)) for item in rows] == [
        ["1", "fp32", ""], ["2", "fp32", "deleted"], ["2", "int8", ""],
    ]  # fmt: skip
    assert swept_keys(rows[:1]) == []


def test_the_best_point_is_marked_in_plain_text_too(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row(0, "m=1", 12_000.0), "memory_headroom": 0.5, "hosts": 2, "plan": "0/plan.yaml"},
            {**row(1, "m=[2]", 15_000.0), "memory_headroom": 0.5, "hosts": 2, "plan": "1/plan.yaml"},
            row(2, "m=4", None)]  # fmt: skip
    for part in table_parts(rows):
        table_console().print(part)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "sweep over m"
    (marked,) = [line for line in lines if line.rstrip().endswith("best │")]
    assert [cell.strip() for cell in marked.split("│")][1:4] == ["1", "[2]", "15,000 items/s"]
    assert "job 2: no" in lines
    assert "best: job 1 (m=[2]), 15,000 items/s: 1/plan.yaml" in lines


def test_what_all_points_share_is_said_once() -> None:
    assert common_overrides(ROWS["two series"]) == []
    assert common_overrides([row(0, "a=1 b=2"), row(1, "a=1 b=3")]) == ["a=1"]
    assert common_overrides([row(0, "a=1")]) == []
