"""The `edgelaunch doctor` command: its arguments and its table of findings."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.commands import links_command
from edgelaunch.commands.arguments import add_rank_arguments
from edgelaunch.commands.rank_start import Start
from edgelaunch.common.failures import Failure, rank_name
from edgelaunch.doctor.check_network import judge_links
from edgelaunch.doctor.findings import FAILS, NOTE, OK, Finding
from edgelaunch.doctor.rank_checks import examine

__all__ = ["DESCRIPTION", "add_arguments", "check_arguments", "local_failure", "rank_failure"]

DESCRIPTION = (
    "Check a rank before a run: what is there, what is not, and what to do about it. Exit status 2 where something "
    "fails."
)
STYLES = {OK: "green", NOTE: "yellow", FAILS: "bold red"}
PLAIN_WIDTH = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="plan.yaml")
    add_rank_arguments(add)
    add("--local", action="store_true", help="check this machine for all ranks, as edgelaunch --local starts them")
    add("--links", action="store_true", help="measure all links too and compare: started on every host at once")
    add(
        "--seconds", type=float, default=0.5, metavar="S", help="least duration of a transfer, in seconds (default 0.5)"
    )
    add("--quiet", action="store_true", help="show only problems")
    add("--json", action="store_true", help="for scripts: what was found as one JSON object on standard output")
    parser.set_defaults(output=None)  # as the other commands have it


def check_arguments(arguments: argparse.Namespace, plan: Plan) -> None:
    """Raises UserError where an argument is invalid."""
    if arguments.local and (arguments.rank is not None or arguments.master is not None or arguments.links):
        raise UserError("--local checks this machine for all ranks: leave out --rank, --master and --links")
    if arguments.links:
        links_command.check_arguments(arguments, plan)


def local_failure(arguments: argparse.Namespace, plan: Plan, plan_path: Path) -> Failure | None:
    """Every rank on this machine."""
    ranks = tuple(range(len(plan.hosts)))
    findings = list(examine(plan, plan_path.resolve().parent, ranks, None))
    if not arguments.json:
        _print(f"{len(ranks)} ranks on this machine", findings, arguments.quiet)
    failed = _failed(findings)
    if arguments.json:
        _print_json(ranks, findings)
    return Failure(rank=0, kind="user", message=f"{failed}: see the table") if failed else None


def rank_failure(
    arguments: argparse.Namespace, plan: Plan, plan_path: Path, discard: list[Any], channel: socket.socket | None
) -> tuple[Failure | None, int]:
    """Looks at this machine as one rank, with --links then at the network together with the others."""
    start = Start.of(arguments, plan, plan_path)
    rank = start.rank
    findings = list(examine(plan, start.folder, (rank,), start.endpoint, arguments.secret_file))
    if not arguments.json:
        _print(rank_name(plan, rank), findings, arguments.quiet)
    if arguments.links:
        failure, found = links_command.measure(start)
        if failure is not None:
            if arguments.json:
                _print_json((rank,), findings)
            return failure, rank
        links = list(judge_links(plan, found))
        if links and not arguments.json:
            _print("links", links, arguments.quiet)
        findings += links
    if arguments.json:
        _print_json((rank,), findings)
    failed = _failed(findings)
    if not failed:
        return None, rank
    return Failure(rank=rank, kind="user", message=f"{rank_name(plan, rank)}: {failed}: see the table"), rank


def _print_json(ranks: tuple[int, ...], findings: Sequence[Finding]) -> None:
    """All that was looked at, whether it is well or not."""
    well = not any(item.verdict == FAILS for item in findings)
    print(json.dumps({"ranks": ranks, "well": well, "findings": [asdict(item) for item in findings]}, indent=1))


def _failed(findings: Sequence[Finding]) -> str:
    """In words; empty where nothing fails."""
    names = [item.check for item in findings if item.verdict == FAILS]
    if not names:
        return ""
    return f"{len(names)} check{'s' if len(names) > 1 else ''} failed ({', '.join(dict.fromkeys(names))})"


def _print(title: str, findings: Sequence[Finding], quiet: bool) -> None:
    shown = [item for item in findings if item.verdict != OK or not quiet]
    if not shown:
        return
    table = Table(title=title, title_justify="left")
    for name in ("check", "", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for item in shown:
        table.add_row(item.check, f"[{STYLES[item.verdict]}]{item.verdict}[/]", _plain(item.found), _plain(item.fix))
    plain = not sys.stdout.isatty()
    Console(width=PLAIN_WIDTH if plain else None, highlight=False).print(table)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
