"""How a run ends where its reader goes, or Ctrl-C comes: quietly, and with what was done."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch_plans import Written

from edgelaunch.commands import launch_command
from edgelaunch.process.stopping import ToldToStop

pytestmark = pytest.mark.slow


def test_a_reader_that_leaves_stops_no_run(two_stages: Written, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "edgelaunch", str(two_stages.path), "--local", "--items", "8", "--run", "run.json"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=90)
    os.close(writer)
    assert done.returncode == 141
    assert "error" not in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run.json").is_file()


def test_what_was_done_is_told_on_ctrl_c(two_stages: Written, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgelaunch", str(two_stages.path), "--local", "--items", "100000000"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline().startswith("item 0: ")
    run.send_signal(signal.SIGINT)
    out, error = run.communicate(timeout=60)
    assert run.returncode == 130
    assert error.endswith("edgelaunch: interrupted\n")
    assert re.search(r"^stopped after [\d,]+ items", out, re.MULTILINE), out


@pytest.mark.parametrize(("words", "status"), [(["serve", "plan.yaml"], 0), (["plan.yaml", "--local"], 130)])
def test_a_service_that_is_stopped_while_it_starts_has_not_failed(
    words: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*_: object, **__: object) -> int:
        raise ToldToStop(signal.SIGTERM)

    monkeypatch.setattr(launch_command, "read_run_plan", told)
    assert launch_command.main(words) == status
    assert ("stopped before it served" in capsys.readouterr().err) == (status == 0)


def test_links_that_were_measured_are_told_on_ctrl_c(three_stages: Written, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgelaunch", "links", str(three_stages.path), "--local", "--seconds", "0.3"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    begun = []
    while "(2 of 3)" not in (line := run.stderr.readline()):
        assert line, begun
        begun.append(line)
    run.send_signal(signal.SIGINT)
    out, error = run.communicate(timeout=60)
    assert run.returncode == 130
    assert error.endswith("edgelaunch: interrupted\n")
    measured = re.findall(r"host-\d +│ host-\d.*bit/s", out)
    assert 1 <= len(measured) < 6, out
