"""What a run shows while it is in progress."""

from __future__ import annotations

import io
import re
from pathlib import Path

import launch_plans
import pytest
from launch_harness import on_a_terminal, run
from launch_plans import Written
from rich.console import Console

from edgelaunch.control.core.membership import Beat
from edgelaunch.control.pace import Load, Overview, Pace
from edgelaunch.report.progress import Meter


def loads(*values: tuple[int, int, int]) -> Pace:
    pace = Pace()
    for at_ns, compute_ns, received_bytes in values:
        pace.add(Load(at_ns=at_ns, compute_ns=compute_ns, received_bytes=received_bytes))
    return pace


def test_a_pace_is_that_of_the_last_beats() -> None:
    assert loads().busy is None
    assert loads((5, 1, 1)).received_bytes_per_s is None
    pace = loads((0, 0, 0), (10**9, 5 * 10**8, 1000), (2 * 10**9, 15 * 10**8, 3000))
    assert pace.busy == pytest.approx(0.75)
    assert pace.received_bytes_per_s == pytest.approx(1500)
    for number in range(3, 30):  # idle from here on: what was long ago is forgotten
        pace.add(Load(at_ns=number * 10**9, compute_ns=15 * 10**8, received_bytes=3000))
    assert pace.busy == 0
    assert pace.received_bytes_per_s == 0


def test_a_process_that_comes_back_has_another_clock() -> None:
    pace = loads((10**12, 10**11, 10**9), (10**12 + 10**9, 10**11 + 10**9, 10**9))
    pace.add(Load(at_ns=7, compute_ns=0, received_bytes=0))
    assert pace.busy is None
    pace.add(Load(at_ns=7 + 10**9, compute_ns=5 * 10**8, received_bytes=0))
    assert pace.busy == pytest.approx(0.5)


def test_a_beat_carries_the_load() -> None:
    beat = Beat(incarnation="a", count=3, left=1, ready=True, load=Load(at_ns=5, compute_ns=6, received_bytes=7))
    assert Beat.from_text(beat.to_text()) == beat


class Runner:
    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def overview(self) -> Overview:
        return self._overview


def shown(meter: Meter, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(meter.view())
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("width", [100, 60])
def test_the_view(three_stages: Written, width: int) -> None:
    plan = three_stages.plan
    busy = loads((0, 0, 0), (10**9, 10**9, 0))
    half = loads((0, 0, 0), (10**9, 5 * 10**8, 12_500_000))
    meter = Meter(1000, quiet=True)
    meter.look_at(Runner(Overview(plan=plan, paces={0: busy, 1: half}, num_in_flight=12)))  # type: ignore[arg-type]
    text = shown(meter, width)
    rows = {line.split()[1]: line for line in text.splitlines() if line.strip()[:1].isdigit() and "host" in line}
    names = [plan.hosts[stage.rank].name for stage in plan.stages]
    assert set(names) <= set(rows)
    assert "100%" in rows[plan.hosts[0].name]
    assert "50%" in rows[plan.hosts[1].name]
    assert "100 Mbit/s" in rows[plan.hosts[1].name]
    assert "not there" in rows[plan.hosts[2].name]
    assert "0 of 1,000 items" in text
    assert "12 in flight" in text


@pytest.mark.slow
def test_a_terminal_gets_the_view_and_keeps_its_results(tmp_path: Path) -> None:
    written = launch_plans.floats(tmp_path, num_stages=2)
    status, out, seen = on_a_terminal([written.path, "--local", "--items", 150, "--rate", 50], "stderr")
    assert status == 0, seen.decode(errors="replace")
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen).decode(errors="replace")
    assert re.search(r"of 150 items", text)
    assert re.search(r"in flight", text)
    assert re.search(r"0:00:0\d left", text)
    assert all(f"{host.name} " in text for host in written.plan.hosts)
    assert "150 items in" in out


@pytest.mark.slow
def test_without_a_terminal_a_line_tells_who_is_busy(tmp_path: Path) -> None:
    written = launch_plans.floats(tmp_path, num_stages=2)
    ended = run(written.path, "--local", "--items", "330", "--rate", "50").expect(0)
    lines = re.findall(r"^\d+ of 330 items, [\d.,]+ items/s, busy: .*\d+%.*$", ended.err, re.MULTILINE)
    assert lines, ended.err
    assert "\x1b" not in ended.err
