"""Console output of the commands: rich on a terminal, plain lines elsewhere; errors and exit statuses."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import print_anything
from edgecompile.terminal.process import begin, final_status

__all__ = ["Output", "choose_output", "error_line", "output_options", "run_command", "say", "steps", "table_console"]

PLAIN_WIDTH, LEAST_WIDTH = 140, 40
"""Columns: the default where the width is unknown, and the fewest that tables are made for."""
_OUTPUT = "EDGECOMPILE_OUTPUT"


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a command that Hydra configures answers: as `--json` and `--quiet` say."""

    json: bool
    quiet: bool


def choose_output(*, json: bool, quiet: bool) -> None:
    """In the environment, where the jobs of a sweep find it whichever process they run in."""
    os.environ[_OUTPUT] = " ".join(name for name, holds in (("json", json), ("quiet", quiet)) if holds)


def output_options() -> Output:
    words = os.environ.get(_OUTPUT, "").split()
    return Output(json="json" in words, quiet="quiet" in words)


def say(text: str) -> None:
    """A line of progress or advice on standard error; none under `--quiet`."""
    if not output_options().quiet:
        print(text, file=sys.stderr, flush=True)


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
    console = Console(stderr=True, highlight=False)
    start = time.perf_counter()
    if console.is_terminal:
        with console.status(name):
            yield
    else:
        console.print(f"  {name} ...")
        yield
    console.print(f"  {name}: {time.perf_counter() - start:.1f} s", style="dim" if console.is_terminal else None)


def error_line(command: str, error: BaseException) -> str:
    """The error's message on one line, with the command's name in front."""
    text = " ".join(str(error).split())
    return f"{command}: {text or type(error).__name__}"


def run_command(command: str, body: Callable[[], int], *user_errors: type[BaseException]) -> int:
    """Runs a command's body; a user's error becomes one line and 2, Ctrl-C 130. Our own bugs keep their traceback."""
    begin(command)
    print_anything()
    try:
        return final_status(body())
    except user_errors + (UserError,) as error:
        print(error_line(command, error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130
