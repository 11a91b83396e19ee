"""A command whose output nobody reads does its work; Ctrl-C while libraries are imported is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecompile.terminal.console import steps, table_console

COMPILE = [
    sys.executable, "-m", "edgecompile.commands.compile_command", "model=transformers",
    "model.build.architecture=ViTForImageClassification",
    "+model.build.config={hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 8, "
    "image_size: 8, patch_size: 8}", "model.inputs={pixel_values: {shape: [3, 8, 8], dtype: float32}}",
]  # fmt: skip


def closed_pipe() -> int:
    """A descriptor to write to whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled while nobody reads what is printed: the plan is there, and the status says that the reader went."""
    folder = tmp_path_factory.mktemp("compiled")
    pipe = closed_pipe()
    done = subprocess.run([*COMPILE, "output_dir=out"], cwd=folder, stdout=pipe, stderr=pipe, timeout=120)
    os.close(pipe)
    assert done.returncode == 141
    return folder / "out" / "plan.yaml"


def test_progress_that_cannot_be_written_never_stops_work(plan: Path) -> None:
    assert plan.is_file()


@pytest.mark.parametrize("words", [["show"], ["explain"], ["show", "--timeline"]])
def test_a_reader_that_leaves_is_no_error(plan: Path, words: list[str]) -> None:
    pipe = closed_pipe()
    command = [sys.executable, "-m", "edgecompile.commands.plan_command", *words, str(plan)]
    done = subprocess.run(command, cwd=plan.parent, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(pipe)
    assert done.returncode == 141
    assert all(line.startswith("  ") for line in done.stderr.splitlines()), done.stderr  # no more than its steps


@pytest.mark.parametrize("columns", ["", "0", "-5", "many", "80", "200"])
def test_any_columns_do(plan: Path, columns: str) -> None:
    command = [sys.executable, "-m", "edgecompile.commands.plan_command", "show", str(plan)]
    environment = {**os.environ, "COLUMNS": columns}
    done = subprocess.run(command, cwd=plan.parent, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    table = [line for line in done.stdout.splitlines() if line.startswith(("│", "┃"))]
    assert max(map(len, table)) <= (80 if columns == "80" else 140)
    assert ("sends" in done.stdout) == (columns != "80")
    assert "compute" in done.stdout


def test_tables_of_a_terminal_are_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert table_console().width == 77
    monkeypatch.setenv("COLUMNS", "1")
    assert table_console().width == 40


def test_steps_are_told_when_they_begin(capsys: pytest.CaptureFixture[str]) -> None:
    with steps("capture"):
        assert capsys.readouterr().err == "  capture ...\n"
    assert capsys.readouterr().err.startswith("  capture: 0.")


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_interrupts_while_libraries_are_imported_are_one_line(delay_s: float) -> None:
    """Also where the library swallows KeyboardInterrupt, as the loop does here."""
    code = """
import sys, time
from edgecompile.terminal.process import abrupt_interrupts, begin
begin("edgecompile")
with abrupt_interrupts():
    print("ready", flush=True)
    while True:
        try:
            time.sleep(10)
        except BaseException:
            pass
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (130, "edgecompile: interrupted\n")
