"""Lines on standard error: as they are by themselves, with time and level, and as JSON; of all programs that log."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator

import pytest

from edgecompile.commands import compile_command
from edgecompile.commands.plan_command import main as edgeplan
from edgecompile.terminal.console import choose_output, say, steps
from edgecompile.terminal.logs import LogForm, LogLevel, log_form, log_line, log_shown, mark_logs, tell
from edgelaunch.commands.launch_command import main as edgelaunch
from edgelaunch.process.stderr import say_error

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    for name in ("EDGECOMPILE_OUTPUT", "HYDRA_FULL_ERROR", "EDGECOMPILE_SWEEP", "EDGECOMPILE_SWEEP_DIR"):
        monkeypatch.setenv(name, "")
    before = log_form()
    yield
    mark_logs({})
    assert log_form() == before


def some_lines() -> None:
    tell("news", about="rank 1 (b)", event="news", rank=1, host="b", epoch=2, more=[3])
    tell("a detail", detail=True)
    tell("for a search", level=logging.DEBUG)
    tell("be careful", level=logging.WARNING)
    say_error("it is over:\n  here")


def test_by_themselves_lines_are_short(capsys: Capture) -> None:
    some_lines()
    assert capsys.readouterr().err.splitlines() == [
        "rank 1 (b): news", "be careful", "edgelaunch: error: it is over: here",
    ]  # fmt: skip


@pytest.mark.parametrize(("level", "count"), [("debug", 5), ("info", 4), ("warning", 2), ("error", 1)])
def test_a_level_leaves_out_what_is_below_it(capsys: Capture, level: str, count: int) -> None:
    with log_shown(LogForm(level=LogLevel(level))):
        some_lines()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == count
    assert re.fullmatch(rf"{TIME} error   edgelaunch: it is over: here", lines[-1])
    if level == "info":
        assert re.fullmatch(rf"{TIME} info    rank 1 \(b\), epoch 2: news", lines[0])
        assert re.fullmatch(rf"{TIME} info    a detail", lines[1])


def test_each_line_is_one_object(capsys: Capture) -> None:
    mark_logs({"rank": 0, "host": "a", "epoch": 1})
    with log_shown(LogForm(json=True)):
        some_lines()
        say_error("ours", trace="Traceback\n  line\n", kind="bug")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["info", "info", "warning", "error", "error"]
    assert all(re.fullmatch(TIME, line.pop("time")) for line in lines)
    assert lines[0] == {
        "level": "info",
        "rank": 1,
        "host": "b",
        "epoch": 2,
        "event": "news",
        "message": "news",
        "more": [3],
    }
    assert (lines[1]["rank"], lines[1]["host"], lines[1]["epoch"]) == (0, "a", 1)
    assert (lines[-1]["trace"], lines[-1]["kind"]) == ("Traceback\n  line\n", "bug")


def test_libraries_and_warnings_are_in_the_same_form(capsys: Capture) -> None:
    with log_shown(LogForm(level=LogLevel.INFO)):
        logging.getLogger("some.library").warning("of a library")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("careful", UserWarning, stacklevel=1)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"{TIME} warning some\.library: of a library", first)
    assert re.match(rf"{TIME} warning py\.warnings: .*UserWarning: careful", second)
    logging.getLogger("some.library").warning("elsewhere")
    assert not re.match(TIME, capsys.readouterr().err)


def test_a_line_for_another_log_is_in_that_ones_form() -> None:
    short = log_line(LogForm(), "news", level=logging.WARNING, about="edgelaunch")
    assert short == "edgelaunch: news\n"
    assert log_line(LogForm(level=LogLevel.ERROR), "news", level=logging.WARNING) == ""
    assert json.loads(log_line(LogForm(json=True), "news", event="e", lost_rank=1))["lost_rank"] == 1


@pytest.mark.parametrize("words", [["--log-json", "no-such.yaml"], ["no-such.yaml", "--log-json", "--lcal"]])
def test_edgelaunch_says_in_json_what_is_wrong(words: list[str], capsys: Capture) -> None:
    assert edgelaunch(words) == 2
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["level"], json.loads(err)["event"]) == ("", "error", "failed")


def test_quiet_and_a_level_contradict_each_other(capsys: Capture) -> None:
    for words in (["plan.yaml"], ["links", "plan.yaml"], ["boards"]):
        assert edgelaunch([*words, "--quiet", "--log-level", "info"]) == 2
        assert "--quiet leaves errors alone, and --log-level chooses lines" in capsys.readouterr().err
    sys.argv[:] = ["edgecompile", "--quiet", "--log-level=info"]
    assert compile_command.main() == 2
    assert "--quiet leaves errors alone, and --log-level chooses lines" in capsys.readouterr().err


def test_edgecompile_says_in_json_what_is_wrong(capsys: Capture) -> None:
    for words in (["--log-json", "seeed=1"], ["seeed=1", "--log-level", "debug", "--log-json"]):
        sys.argv[:] = ["edgecompile", *words]
        assert compile_command.main() == 2
        line = json.loads(capsys.readouterr().err)
        assert (line["level"], line["event"]) == ("error", "problem")
        assert line["message"].startswith("seeed: no such key")


def test_steps_of_the_compiler_have_time_and_what_they_took(capsys: Capture) -> None:
    choose_output(json=False, quiet=False, log=LogForm(level=LogLevel.INFO, json=True))
    with log_shown(LogForm()):
        say("  compiling x")
        with steps("capture"):
            pass
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["message"].partition(":")[0]) for line in lines] == [
        ("message", "compiling x"), ("step_began", "capture ..."), ("step", "capture"),
    ]  # fmt: skip
    assert lines[-1]["took_s"] >= 0


def test_edgeplan_has_results_and_no_log(capsys: Capture) -> None:
    assert edgeplan(["show", "x.yaml", "--log-json"]) == 2
    assert "unrecognized argument --log-json" in capsys.readouterr().err
