"""What commands say while they work: rich on a terminal, plain lines elsewhere; and how they end."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from edgecompile.errors import UserError
from edgecompile.files import print_anything
from edgecompile.process import begin, final_status

__all__ = ["error_line", "run_command", "steps", "table_console"]

PLAIN_WIDTH, LEAST_WIDTH = 140, 40
"""Columns: where nobody says how many there are, and the fewest that tables are made for."""


def table_console() -> Console:
    """Standard output for tables; wide enough for them where it is no terminal and COLUMNS says nothing."""
    return Console(highlight=False, width=_width())


def _width() -> int:
    """COLUMNS, where it is a number over 0, else the terminal's."""
    columns = os.environ.get("COLUMNS", "").strip()
    if columns.isdecimal() and int(columns) > 0:
        return max(int(columns), LEAST_WIDTH)
    return shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if sys.stdout.isatty() else PLAIN_WIDTH


@contextmanager
def steps(name: str) -> Iterator[None]:
    """Says on standard error what begins, and how long it took once it is done."""
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
