"""`edgeplan`: what a plan says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from edgecompile import __version__
from edgecompile.console import run_command, table_console
from edgecompile.explore.show import network_table, plan_tables
from edgecompile.plan import read_plan

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 done, 2 the user's error in one line."""
    parser = argparse.ArgumentParser(prog="edgeplan", description="Reads plans that edgecompile wrote.")
    parser.add_argument("--version", action="version", version=f"edgeplan {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="the plan as tables: stages, hosts, links, predictions")
    show.add_argument("plan", help="a plan.yaml")
    chosen = parser.parse_args(arguments)
    return run_command("edgeplan", lambda: _show(chosen.plan))


def _show(path: str) -> int:
    plan = read_plan(path)
    console = table_console()
    for part in plan_tables(plan):
        console.print(part)
    table = network_table(plan)
    if table is not None:
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
