"""Console output of the commands: rich on a terminal, plain lines elsewhere; errors and exit statuses."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import print_anything
from edgecompile.terminal.logs import LogForm, LogLevel, log_form, log_shown, show_logs, tell
from edgecompile.terminal.process import begin, final_status

__all__ = ["Output", "choose_output", "output_options", "run_command", "say", "say_problem", "steps", "table_console"]

PLAIN_WIDTH, LEAST_WIDTH = 140, 40
"""Columns: the default where the width is unknown, and the fewest that tables are made for."""
_OUTPUT = "EDGECOMPILE_OUTPUT"


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a command that Hydra configures answers: as `--json` and `--quiet` say."""

    json: bool
    quiet: bool
    log: LogForm


def choose_output(*, json: bool, quiet: bool, log: LogForm | None = None) -> None:
    """In the environment, where the jobs of a sweep find it whichever process they run in."""
    level = f"level={log.level.value}" if log is not None and log.level is not None else ""
    chosen = (("json", json), ("quiet", quiet), ("log", log is not None and log.json), (level, bool(level)))
    os.environ[_OUTPUT] = " ".join(name for name, holds in chosen if holds)


def output_options() -> Output:
    words = os.environ.get(_OUTPUT, "").split()
    levels = [LogLevel(word.removeprefix("level=")) for word in words if word.startswith("level=")]
    log = LogForm(level=levels[0] if levels else None, json="log" in words)
    return Output(json="json" in words, quiet="quiet" in words, log=log)


def say(text: str, event: str = "message", **fields: Any) -> None:
    """A line of progress or advice on standard error; none under `--quiet`. `fields`: for logs in JSON."""
    output = output_options()
    if not output.quiet:
        show_logs(output.log)
        tell(text, event=event, **fields)


def say_problem(command: str, error: BaseException | str) -> None:
    """An error that the user can do something about, in one line, or what ended the command."""
    show_logs(output_options().log if not log_form().dated else log_form())
    text = " ".join(str(error).split()) or type(error).__name__
    tell(text, level=logging.ERROR, about=command, event="problem")


def table_console() -> Console:
    """Standard output for tables; wide enough for them where it is not a terminal and COLUMNS says nothing."""
    return Console(highlight=False, width=_width())


def _width() -> int:
    """COLUMNS, where it is a number greater than 0, else the terminal's."""
    columns = os.environ.get("COLUMNS", "").strip()
    if columns.isdecimal() and int(columns) > 0:
        return max(int(columns), LEAST_WIDTH)
    return shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if sys.stdout.isatty() else PLAIN_WIDTH


@contextmanager
def steps(name: str) -> Iterator[None]:
    """Says on standard error what begins, and how long it took once it is done; nothing under `--quiet`."""
    if output_options().quiet:
        yield
        return
    start = time.perf_counter()
    if output_options().log.dated:
        say(f"{name} ...", "step_began", step=name)
        yield
        took_s = time.perf_counter() - start
        say(f"{name}: {took_s:.1f} s", "step", step=name, took_s=round(took_s, 3))
        return
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(name):
            yield
    else:
        console.print(f"  {name} ...")
        yield
    console.print(f"  {name}: {time.perf_counter() - start:.1f} s", style="dim" if console.is_terminal else None)


def run_command(command: str, body: Callable[[], int], *user_errors: type[BaseException]) -> int:
    """Runs a command's body; a user's error becomes one line and 2, Ctrl-C 130. Our own bugs keep their traceback."""
    begin(command)
    print_anything()
    with log_shown(LogForm()):
        try:
            return final_status(body())
        except user_errors + (UserError,) as error:
            say_problem(command, error)
            return 2
        except KeyboardInterrupt:
            say_problem(command, "interrupted")
            return 130
