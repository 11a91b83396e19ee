"""`edgeplan report`: one file that asks for nothing, and looks right in a real browser in both themes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from explore_plans import make_plan
from PIL import Image, ImageStat

from edgecompile.commands.plan_command import main
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import Certificate, Plan
from edgecompile.contract.plan_file import write_plan
from edgecompile.contract.run_record import (
    LinkRecord,
    Percentiles,
    Positions,
    Rates,
    RequestRecord,
    RunRecord,
    StageRecord,
    TextRecord,
    read_run,
    run_text,
)
from edgecompile.explore.proof import proof
from edgecompile.explore.timeline.run_timeline import requests_of_run, rows_of_run
from edgecompile.explore.timeline.stage_timeline import COMPUTE, FILL, WAIT_INPUT, WAIT_SEND

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MS = 1_000_000


def plan() -> Plan:
    made = make_plan({"fast": [0.01] * 4, "slow": [0.02] * 4}, [("a", "fast"), ("b", "slow"), ("c", "slow")],
                     [100, 100, 100, 100, 100])  # fmt: skip
    return replace(made, model=replace(made.model, name="<script>alert(1)</script> & co"))


def record(made: Plan, sha256: str, num_microbatches: int = 6, other_clock: int = 0) -> RunRecord:
    """A run in which stage i computes for its predicted time, one microbatch after the other."""
    stages = []
    ends = [0] * num_microbatches
    for stage in made.stages:
        compute = int(stage.predicted.compute_s * 1e9 * (2 if stage.stage == 0 else 1))
        free, trace = 0, []
        for number in range(num_microbatches):
            got = max(free, ends[number])
            done = got + compute
            trace.append((free, got, done, done + MS, done + 2 * MS))
            free = ends[number] = done + 2 * MS
        shift = other_clock if stage.rank else 0
        stages.append(StageRecord(
            stage=stage.stage, rank=stage.rank, host=made.hosts[stage.rank].name, machine=f"boot-{min(stage.rank, 1)}",
            units=stage.units, microbatches=num_microbatches, compute_s=compute / 1e9,
            predicted_s=stage.predicted.compute_s, wait_input_s=0.0, wait_output_s=1e-3, pack_s=1e-3, busy=0.9,
            trace=tuple(tuple(value + shift for value in stamps) for stamps in trace),
        ))  # fmt: skip
    return RunRecord(
        version=1, plan_sha256=sha256, model=made.model.name, microbatch=1, began="2026-01-02T03:04:05+00:00",
        num_items=num_microbatches, elapsed_s=1.0, throughput_items_per_s=30.0, steady_items_per_s=31.5,
        predicted_items_per_s=made.predicted.throughput_items_per_s, bottleneck="stage 0 on a (97% busy)",
        predicted_bottleneck=made.predicted.bottleneck,
        latency=Percentiles(count=6, p50_s=0.1, p95_s=0.1, p99_s=0.1, max_s=0.2), stages=tuple(stages),
        links=(LinkRecord(boundary=1, source="a", destination="b", transfer_s=None, predicted_s=0.1, num_bytes=600),),
        pauses_s=(0.7,), rates=Rates(step_s=0.1, items=(3, 4, 0, 5, 3)),
    )  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    made = plan()
    write_plan(made, tmp_path / "plan.yaml")
    (tmp_path / "run.json").write_text(run_text(record(made, file_sha256(tmp_path / "plan.yaml"))))
    (tmp_path / "manifest.json").write_text(json.dumps({"jobs": [
        {"overrides": ["microbatch=1"], "error": None, "throughput_items_per_s": 10.0},
        {"overrides": ["microbatch=2"], "error": "does not fit"},
    ]}))  # fmt: skip
    return tmp_path / "plan.yaml", tmp_path / "run.json"


def test_the_report_says_what_the_commands_say_of_a_poor_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One host of many takes all: the best plan is many times as fast, never "94 % faster"."""
    made = make_plan({"slow": [0.01] * 4, "snail": [1.0] * 4}, [("a", "snail"), ("b", "slow")], [1] * 5,
                     assignments=[(0, 3, 0)])  # fmt: skip
    bound_s = made.predicted.period_s / 16.7
    certificate = replace(made.certificate, method="manual", lower_bound_s=bound_s, gap=1 - 1 / 16.7)
    write_plan(replace(made, certificate=certificate), tmp_path / "plan.yaml")
    main(["report", str(tmp_path / "plan.yaml")])
    main(["show", str(tmp_path / "plan.yaml")])
    text = Page((tmp_path / "report.html").read_text()).text
    words = "chedule manual: the best plan's period is 94.0% shorter (240 ms)"
    assert words in text
    assert words in capsys.readouterr().out
    assert "faster" not in text


@pytest.mark.parametrize("objective", ["period", "latency", "time of 3 messages"])
@pytest.mark.parametrize("gap", [0.0, 0.25])
def test_what_is_proved_names_the_figure_that_was_sought(objective: str, gap: float) -> None:
    made = make_plan({"slow": [0.01] * 4}, [("a", "slow")], [1] * 5, assignments=[(0, 3, 0)])
    messages = 3 if objective.startswith("time") else 1
    certificate = Certificate(method="bounded", period_s=1.0, lower_bound_s=0.75, gap=gap)
    plan = replace(
        made, objective="period" if objective == "period" else "latency", certificate=certificate,
        scheduling=replace(made.scheduling, messages=messages),
    )  # fmt: skip
    words = proof(plan)
    if gap:
        assert words == f"schedule bounded: within 25.0% of the least {objective} possible (lower bound 750 ms)"
    else:
        assert words == "schedule bounded: no plan does better on this cost model (gap 0)"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def write(*words: object) -> Page:
    assert main(["report", *map(str, words)]) == 0
    return Page((Path(str(words[0])).parent / "report.html").read_text())


def test_all_is_in_one_file_that_asks_for_nothing(files: tuple[Path, Path]) -> None:
    page = write(*files, "--sweep", files[0].parent)
    assert (files[0].parent / "report.html").stat().st_size < 2e6
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "audio", "video"}
    assert not any(
        name in ("src", "href", "srcset") or name.startswith("on") for _, attrs in page.tags for name in attrs
    )
    assert not re.search(r"url\(|@import|https?://", (files[0].parent / "report.html").read_text())
    for part in ("Cluster", "Measured beside predicted", "Throughput over time", "Timeline, measured", "Sweep",
                 "microbatch=2", "prediction is off by", "1 recoveries", "stage 0 on a (97% busy)"):  # fmt: skip
        assert part in page.text, part
    assert "<script>alert(1)</script> & co" in page.text  # as text: there is no such tag


def test_a_sweep_alone_is_reported_with_its_best_points_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1").mkdir()
    write_plan(plan(), tmp_path / "1" / "plan.yaml")
    rates = (10.0, 20_000.0, None)
    jobs = [
        {"job": job, "overrides": ["model=x", f"microbatch={2**job}"], "plan": f"{job}/plan.yaml",
         "error": None if rate else "does not fit", "throughput_items_per_s": rate}
        for job, rate in enumerate(rates)
    ]  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps({"jobs": jobs}))
    assert main(["report", "--sweep", str(tmp_path)]) == 0
    page = Page((tmp_path / "report.html").read_text())
    for part in ("Cluster", "of model=x.", "microbatch=2 (the best)", "20,000 items/s", "job 1.", "does not fit"):
        assert part in page.text, part
    (tmp_path / "manifest.json").write_text(json.dumps({"jobs": jobs[2:]}))
    capsys.readouterr()
    assert main(["report", "--sweep", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "report.html")}
    page = Page((tmp_path / "report.html").read_text())
    assert "does not fit" in page.text
    assert "Cluster" not in page.text
    assert main(["report"]) == 2
    assert "--sweep" in capsys.readouterr().err


def test_a_plan_alone_has_a_report(files: tuple[Path, Path]) -> None:
    page = write(files[0])
    assert "Timeline, simulated" in page.text
    assert "Measured" not in page.text


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda text: "", "not JSON"),
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: "[" * 100_000, "not JSON"),
        (lambda text: "[]", "not a record of a run"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 1"),
        (lambda text: text.replace('"stages"', '"stagez"'), "stagez"),
        (lambda text: text.replace('"model": "', '"model": "\\ud83d'), "text without lone surrogates"),
        (lambda text: text.replace('"num_items": 6', '"num_items": "six"'), "num_items"),
        (lambda text: re.sub(r'"plan_sha256": "..', '"plan_sha256": "xx', text), "another plan"),
    ],
)
def test_other_files_are_refused_in_one_line(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], change: object, part: str
) -> None:
    files[1].write_text(change(files[1].read_text()))  # type: ignore[operator]
    assert main(["report", *map(str, files)]) == 2
    said = capsys.readouterr().err
    assert part in said
    assert len(said.splitlines()) == 1
    assert not (files[0].parent / "report.html").exists()


def test_other_sweeps_and_outputs_are_refused(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--sweep", "/nowhere"], ["--output", "/nowhere/report.html"], ["--output", files[0].parent]):
        assert main(["report", str(files[0]), *map(str, words)]) == 2
    (files[0].parent / "manifest.json").write_text('{"jobs": [{}]}')
    assert main(["report", str(files[0]), "--sweep", str(files[0].parent)]) == 2
    assert "no manifest" in capsys.readouterr().err


def test_what_is_read_is_not_written_over(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "positions" not in json.loads(files[1].read_text())
    made = replace(read_run(files[1]), positions=Positions(useful=90, computed=120))
    files[1].write_text(run_text(made))
    assert read_run(files[1]) == made
    assert "75.0% of the computed positions were the items' own" in write(*files).text


def test_a_record_survives_its_file(files: tuple[Path, Path]) -> None:
    made = plan()
    assert read_run(files[1]) == record(made, file_sha256(files[0]))


def test_every_gap_of_a_run_has_its_reason() -> None:
    rows = rows_of_run(record(plan(), ""))
    for row in rows:
        for before, after in zip(row.spans, row.spans[1:], strict=False):
            assert after.begin_s == pytest.approx(before.end_s)
        assert {COMPUTE, WAIT_SEND} <= {span.what for span in row.spans}
    if len(rows) > 1:
        assert rows[1].spans[0].what == FILL
        assert any(span.what == WAIT_INPUT for row in rows for span in row.spans)


def test_a_machine_with_another_clock_is_moved_into_place() -> None:
    made = plan()
    assert len(made.stages) > 1
    together, apart = rows_of_run(record(made, "")), rows_of_run(record(made, "", other_clock=10**15))
    for one, other in zip(together, apart, strict=True):
        for first, second in zip(one.spans, other.spans, strict=True):
            assert second.begin_s == pytest.approx(first.begin_s, abs=1e-6)


def test_a_run_as_a_trace(files: tuple[Path, Path], tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    assert main(["export", str(files[0]), "--run", str(files[1]), "--perfetto", str(trace)]) == 0
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event["ph"] == "X" and event["cat"] == "compute" for event in events) == 6 * len(plan().stages)
    assert {"waits to send", "pack", "compute"} <= {event.get("cat") for event in events}


def with_requests(made: RunRecord, machine: str = "boot-0", clock: int = 0) -> RunRecord:
    """Two slots; the first request began before what is kept of the stages, the last token came as they ended."""
    end = max(stamps[4] for stage in made.stages for stamps in stage.trace)
    times = Percentiles(count=3, p50_s=0.25, p95_s=0.5, p99_s=0.5, max_s=1.5)
    trace = tuple(
        RequestRecord(slot=slot, begun_ns=begun + clock, first_ns=first + clock, last_ns=last + clock, prompt_tokens=7,
                      tokens=5, rebuilt=int(slot == 1))
        for slot, begun, first, last in ((1, 4 * MS, 5 * MS, 9 * MS), (0, -3 * MS, 2 * MS, 6 * MS),
                                         (0, 6 * MS, 8 * MS, end))
    )  # fmt: skip
    text = TextRecord(machine=machine, requests=1234, cancelled=2, prompt_tokens=21, tokens=15, rebuilt=1,
                      first_token=times, first_token_alone=times, token=replace(times, count=0),
                      predicted_first_token_s=0.125, predicted_token_s=0.01, trace=trace)  # fmt: skip
    return replace(made, text=text)


@pytest.mark.parametrize(("machine", "clock"), [("boot-0", 0), ("boot-9", 10**15)])
def test_requests_stand_in_slots_beside_the_stages(
    files: tuple[Path, Path], tmp_path: Path, machine: str, clock: int
) -> None:
    made = with_requests(read_run(files[1]), machine, clock)
    files[1].write_text(run_text(made))
    assert read_run(files[1]) == made
    rows = rows_of_run(made)
    assert max(span.end_s for span in requests_of_run(made)) == pytest.approx(
        max(row.spans[-1].end_s for row in rows), abs=1e-9
    )
    trace = tmp_path / "trace.json"
    assert main(["export", str(files[0]), "--run", str(files[1]), "--perfetto", str(trace)]) == 0
    events = json.loads(trace.read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert len(names) == len(rows) + 2
    slices = [event for event in events if event.get("cat") in ("request", "prompt", "answer")]
    found = [(names[event["tid"]], event["name"], round(event["ts"]), round(event["dur"])) for event in slices]
    assert found[:3] == [("slot 0", "request", 0, 9000), ("slot 0", "prompt of 7", 0, 5000),
                         ("slot 0", "answer of 5", 5000, 4000)]  # fmt: skip
    assert found[6:] == [("slot 1", "request, rebuilt 1 times", 7000, 5000), ("slot 1", "prompt of 7", 7000, 1000),
                         ("slot 1", "answer of 5", 8000, 4000)]  # fmt: skip
    assert min(event["ts"] for event in events if event.get("cat") == "compute") >= 3000


def test_the_report_has_the_requests_of_a_run(files: tuple[Path, Path]) -> None:
    assert "Requests" not in write(*files).text
    files[1].write_text(run_text(with_requests(read_run(files[1]))))
    text = write(*files).text
    for part in ("1,234 requests for text", "2 of them were left", "1 times a lost state", "first token, from its slot",
                 "250 ms500 ms1.5 s125 ms"):  # fmt: skip
        assert part in text, part
    assert "a token" not in text.partition("predicted, alone")[2].partition("Timeline")[0]


def browse(page: Path, picture: Path, *options: str) -> str:
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--enable-logging=stderr", f"--user-data-dir={picture.parent / 'profile'}", "--no-first-run",
        f"--screenshot={picture}", *options, page.as_uri(),
    ]  # fmt: skip
    environ = {**os.environ, "HOME": str(page.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_in_a_browser_in_both_themes(files: tuple[Path, Path], tmp_path: Path) -> None:
    write(*files, "--sweep", files[0].parent)
    light = {}
    for theme, number in (("dark", 0), ("light", 1)):
        for device, size in (("phone", "500,2400"), ("desktop", "1280,2000")):
            picture = tmp_path / f"{theme}-{device}.png"
            said = browse(files[0].parent / "report.html", picture, f"--window-size={size}",
                          f"--blink-settings=preferredColorScheme={number}")  # fmt: skip
            assert "CONSOLE" not in said, said
            light[theme] = ImageStat.Stat(Image.open(picture).convert("L")).mean[0]
    assert light["dark"] < 80 < 200 < light["light"], light
