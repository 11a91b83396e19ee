"""`edgelaunch doctor PLAN`: how it looks at one rank or at all, and the table that comes of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from edgecompile.contract.plan import Plan
from edgelaunch.commands.links_command import check_measurable, measure
from edgelaunch.common.failures import Failure, FailureKind, rank_name
from edgelaunch.composition import RankStart
from edgelaunch.doctor.check_network import judge_links
from edgelaunch.doctor.findings import FAILS, NOTE, OK, Finding
from edgelaunch.doctor.rank_checks import examine
from edgelaunch.request.links_request import DoctorRequest

__all__ = ["check_doctor", "local_failure", "rank_failure"]

STYLES = {OK: "green", NOTE: "yellow", FAILS: "bold red"}
PLAIN_WIDTH = 140


def check_doctor(request: DoctorRequest, plan: Plan) -> None:
    """Raises UserError where links are to be measured, and there is none."""
    if request.links:
        check_measurable(plan)


def local_failure(request: DoctorRequest, plan: Plan) -> Failure | None:
    """Every rank on this machine."""
    ranks = tuple(range(len(plan.hosts)))
    findings = list(examine(plan, request.plan_path.resolve().parent, ranks, None))
    if not request.json:
        _print(f"{len(ranks)} ranks on this machine", findings, request.quiet)
    failed = _failed(findings)
    if request.json:
        _print_json(ranks, findings)
    return Failure(rank=0, kind=FailureKind.USER, message=f"{failed}: see the table") if failed else None


def rank_failure(start: RankStart[DoctorRequest], discard: list[Any], channel: object) -> Failure | None:
    """Looks at this machine as one rank, with --links then at the network together with the others."""
    request, plan, rank = start.request, start.plan, start.rank
    findings = list(examine(plan, start.folder, (rank,), start.endpoint, request.secret_file))
    if not request.json:
        _print(rank_name(plan, rank), findings, request.quiet)
    if request.links:
        failure, found = measure(start, request.seconds)
        if failure is not None:
            if request.json:
                _print_json((rank,), findings)
            return failure
        links = list(judge_links(plan, found))
        if links and not request.json:
            _print("links", links, request.quiet)
        findings += links
    if request.json:
        _print_json((rank,), findings)
    failed = _failed(findings)
    if not failed:
        return None
    return Failure(rank=rank, kind=FailureKind.USER, message=f"{rank_name(plan, rank)}: {failed}: see the table")


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
