"""What commands say while they work: rich on a terminal, plain lines elsewhere; and how they end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from edgecompile.errors import UserError

__all__ = ["error_line", "run_command", "steps", "table_console"]


def table_console() -> Console:
    """Standard output for tables; wide enough for them where it is no terminal."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=int(os.environ.get("COLUMNS", "140")))


@contextmanager
def steps(name: str) -> Iterator[None]:
    """Says on standard error what is going on, and how long it took once it is done."""
    console = Console(stderr=True, highlight=False)
    start = time.perf_counter()
    if console.is_terminal:
        with console.status(name):
            yield
    else:
        yield
    console.print(f"  {name}: {time.perf_counter() - start:.1f} s", style="dim" if console.is_terminal else None)


def error_line(command: str, error: BaseException) -> str:
    """The error's message on one line, with the command's name in front."""
    text = " ".join(str(error).split())
    return f"{command}: {text or type(error).__name__}"


def run_command(command: str, body: Callable[[], int], *user_errors: type[BaseException]) -> int:
    """Runs a command's body; a user's error becomes one line and 2, Ctrl-C 130. Our own bugs keep their traceback."""
    try:
        return body()
    except user_errors + (UserError,) as error:
        print(error_line(command, error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
