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


@pytest.mark.slow
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


@pytest.mark.slow
def test_output_that_a_full_disk_does_not_take_is_an_error_in_one_line(plan: Path) -> None:
    for words in (["show", str(plan)], ["show", str(plan), "--json"], ["--help"], ["--completion", "bash"]):
        code = f"import sys; sys.argv = ['edgeplan', *{words}]; " \
               "from edgecompile.commands.entry_points import plan_main as main; " \
               "sys.exit(main())"  # fmt: skip
        with open("/dev/full", "wb") as full:
            done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
        message = "edgeplan: standard output cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (2, message), words


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_the_caller_closed_lead_nowhere(plan: Path, closed: tuple[int, ...]) -> None:
    """Not into the file that is opened next, which would have their number."""
    code = f"""
import os, sys
for number in {closed}:
    os.close(number)
names = ["stdin", "stdout", "stderr"]
for number in {closed}:
    setattr(sys, names[number], None)  # as Python starts
sys.argv = ["edgeplan", "show", {str(plan)!r}]
from edgecompile.commands.entry_points import plan_main
status = plan_main()
numbers = [os.open(os.devnull, os.O_RDONLY), *(getattr(sys, name).fileno() for name in names)]
os._exit(0 if status == 0 and numbers[0] > 2 and numbers[1:] == [0, 1, 2] else 1)
"""
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("predicted" in done.stdout) == (1 not in closed)
