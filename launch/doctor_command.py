"""`edgelaunch doctor PLAN`: its arguments, and the table that comes of it."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgecompile.plan import Plan, UserError
from edgelaunch import links_command
from edgelaunch.doctor import FAILS, NOTE, OK, Finding, examine, judge_links
from edgelaunch.failures import Failure, rank_name
from edgelaunch.identity import choose_rank, find_endpoint, rank_environment
from edgelaunch.say import say

__all__ = ["add_arguments", "check_arguments", "examine_all", "rank_failure"]

STYLES = {OK: "green", NOTE: "yellow", FAILS: "bold red"}
PLAIN_WIDTH = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="plan.yaml")
    add("--rank", type=int, metavar="N", help="else the plan's host that is this machine, or $RANK")
    add("--master", metavar="ADDR:PORT", help="where rank 0 listens, else as the plan says")
    add("--secret-file", metavar="FILE", help="the shared secret, else $EDGELAUNCH_SECRET")
    add("--local", action="store_true", help="check this machine for all ranks, as edgelaunch --local starts them")
    add("--links", action="store_true", help="measure all links too and compare: started on every host at once")
    add("--seconds", type=float, default=0.5, metavar="S", help="how long a transfer takes at least (default 0.5)")
    add("--quiet", action="store_true", help="only what is not well")
    for hidden in ("--listen-fd", "--supervisor-fd"):
        add(hidden, type=int, help=argparse.SUPPRESS)
    for name, value in (("output", None), ("loopback", False)):  # as the other commands have them
        parser.set_defaults(**{name: value})


def check_arguments(arguments: argparse.Namespace, plan: Plan) -> None:
    """Raises UserError where an argument does not do."""
    if arguments.local and (arguments.rank is not None or arguments.master is not None or arguments.links):
        raise UserError("--local checks this machine for all ranks: leave out --rank, --master and --links")
    if arguments.links:
        links_command.check_arguments(arguments, plan)


def examine_all(plan: Plan, folder: Path) -> int:
    """As --local: every rank on this machine. Returns the exit status."""
    ranks = tuple(range(len(plan.hosts)))
    findings = list(examine(plan, folder, ranks, None))
    _print(f"{len(ranks)} ranks on this machine", findings, quiet=False)
    failed = _failed(findings)
    if failed:
        say(f"edgelaunch: error: {failed}: see the table")
    return 2 if failed else 0


def rank_failure(
    arguments: argparse.Namespace, plan: Plan, plan_path: Path, discard: list[Any], channel: socket.socket | None
) -> tuple[Failure | None, int]:
    """Looks at this machine as one rank, with --links then at the network together with the others."""
    environ = rank_environment(plan, os.environ)
    rank = choose_rank(plan, arguments.rank, environ)
    endpoint = find_endpoint(plan, arguments.master, environ, arguments.listen_fd)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    findings = list(examine(plan, plan_path.resolve().parent, (rank,), endpoint, arguments.secret_file))
    _print(rank_name(plan, rank), findings, arguments.quiet)
    if arguments.links:
        failure, _, found = links_command.measure(arguments, plan, plan_path)
        if failure is not None:
            return failure, rank
        links = list(judge_links(plan, found))
        if links:
            _print("links", links, arguments.quiet)
        findings += links
    failed = _failed(findings)
    if not failed:
        return None, rank
    return Failure(rank=rank, kind="user", message=f"{rank_name(plan, rank)}: {failed}: see the table"), rank


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
