"""`edgelaunch boards`: the table of boards, their links, and options for edgecompile. Imports no torch."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgecompile.contract.errors import UserError, choices
from edgecompile.contract.plan_file import write_plan
from edgecompile.contract.quantities import format_bytes, format_rate, format_time
from edgelaunch.boards.agent_rank import AgentRank, Sent
from edgelaunch.boards.board_list import Board, BoardList, find_boards
from edgelaunch.boards.boards_run import BoardsRun
from edgelaunch.boards.found_options import FoundHost, check_output, option_paths, ports_of, write_options
from edgelaunch.boards.job_orders import JobKind, JobOrder
from edgelaunch.boards.link_plan import link_plan
from edgelaunch.commands.on_boards.run_on_boards import caller_name
from edgelaunch.common.addresses import Address
from edgelaunch.common.failures import failure_words
from edgelaunch.common.identity import address_is_here
from edgelaunch.common.secret import stated_secret
from edgelaunch.link_test.hosts_option import Figures
from edgelaunch.process.stderr import say, say_last
from edgelaunch.request.boards_request import BoardsRequest
from edgelaunch.request.links_request import LinksRequest

__all__ = ["list_boards"]

PLAIN_WIDTH = 160
CLOCK_ALIKE_S = 1.0
"""Clocks that differ by more are shown: certificates and logs disagree."""

Links = Mapping[tuple[int, int], Figures]


def list_boards(request: BoardsRequest) -> int:
    """Returns 0, or 2 where an agent did not say what it is.

    Raises:
        UserError: there is no board, or a file cannot be written, or links cannot be measured.
    """
    if request.output is not None:
        check_output(request.output)
    secret = stated_secret(request.secret_file, os.environ)
    found = find_boards(secret, request.join, request.wait)
    if not found.boards:
        raise UserError("; ".join(found.problems) or f"no board answered by mDNS within {request.wait:g} s",
                        fix=None if found.problems else "start edgelaunch agent on each board, or name one with --join "
                        "ADDRESS where mDNS does not pass")  # fmt: skip
    boards = _ordered(found.boards, request.first)
    links = _measure(boards, request) if request.links else {}
    hosts = [FoundHost(facts=board.facts, address=board.address.host) for board in boards]
    if request.output is not None:
        write_options(request.output, hosts, links)
    if request.json:
        print(json.dumps(_as_json(boards, found, links, request.output), indent=1))
    else:
        _show(boards, links, request.output, quiet=request.quiet)
    for problem in found.problems:
        say_last(problem, event="problem")
    return 2 if found.problems else 0


def _ordered(boards: Sequence[Board], first: str | None) -> list[Board]:
    """The data host first: the one that is named, else this machine."""
    names = [board.facts.name for board in boards]
    if first is not None and first not in names:
        raise UserError(f"invalid value {first!r} for --first: expected one of {choices(names, first)}")
    return sorted(boards, key=lambda board: (board.facts.name != first, not address_is_here(board.address.host)))


# --- links -----------------------------------------------------------------------------------------------------------


def _measure(boards: Sequence[Board], request: BoardsRequest) -> dict[tuple[int, int], Figures]:
    """By places in `boards`, of every ordered pair."""
    if len(boards) < 2:
        raise UserError("there is only one board: there is no link to measure")
    hosts = [FoundHost(facts=board.facts, address=board.address.host) for board in boards]
    names = [host.facts.name for host in hosts]
    plan = link_plan(names, [host.address for host in hosts], ports_of(hosts))
    if not request.quiet:
        say(f"measuring the links between {len(boards)} boards")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.yaml"
        write_plan(plan, path)
        options = (("quiet", ""), ("seconds", f"{request.seconds:g}"))
        master = str(Address(hosts[0].address, plan.hosts[0].port))
        ranks = []
        for rank, board in enumerate(boards):
            order = JobOrder(job=secrets.token_hex(16), kind=JobKind.LINKS, caller=caller_name(), rank=rank,
                             master=master, options=options if rank else (*options, ("json", "")))  # fmt: skip
            ranks.append(AgentRank(board, order, Sent(plan_path=path), say))
        run = BoardsRun(plan, LinksRequest(plan_path=path), ranks, None, capture=True)
        failure = run.run()
    if failure is not None:
        raise UserError(f"the links could not be measured: {failure_words(plan, failure)}")
    place = {name: number for number, name in enumerate(names)}
    return {
        (place[link["source"]], place[link["destination"]]): Figures(
            bandwidth_bytes_per_s=float(link["bandwidth_bytes_per_s"]), latency_s=float(link["latency_s"])
        )
        for link in json.loads("".join(run.printed))["links"]
    }


# --- what is shown ---------------------------------------------------------------------------------------------------


def _show(boards: Sequence[Board], links: Links, output: Path | None, *, quiet: bool) -> None:
    plain = not sys.stdout.isatty()
    console = Console(width=PLAIN_WIDTH if plain else None, highlight=False)
    console.print(_table(boards))
    if links:
        console.print(_links_table(boards, links))
    if output is not None and not quiet:
        devices, hosts = option_paths(output)
        words = f"edgecompile --config-dir {output} devices=found hosts=found model=..."
        print(f"{devices} and {hosts}: {words} plans for these")


def _table(boards: Sequence[Board]) -> Table:
    table = Table(title="boards", title_justify="left")
    for name in ("name", "address", "kind", "calls itself", "cores", "memory", "torch", "edgecompile", "clock", "runs"):
        table.add_column(name, justify="right" if name in ("cores", "memory", "clock") else "left", overflow="fold")
    for board in boards:
        facts = board.facts
        table.add_row(*map(escape, (
            facts.name, str(board.address), facts.kind, facts.model, str(facts.cores), format_bytes(facts.memory_bytes),
            facts.torch or "missing", facts.edgecompile, _clock(board.clock_ahead_s), facts.busy or "-")))  # fmt: skip
    return table


def _clock(ahead_s: float) -> str:
    return f"{ahead_s:+.1f} s" if abs(ahead_s) >= CLOCK_ALIKE_S else "as here"


def _links_table(boards: Sequence[Board], links: Links) -> Table:
    table = Table(title="links, measured", title_justify="left")
    for name in ("source", "destination", "bandwidth", "latency"):
        table.add_column(name, justify="left" if name in ("source", "destination") else "right")
    for (source, destination), figures in sorted(links.items()):
        ends = (escape(boards[number].facts.name) for number in (source, destination))
        table.add_row(*ends, format_rate(figures.bandwidth_bytes_per_s), format_time(figures.latency_s))
    return table


def _as_json(boards: Sequence[Board], found: BoardList, links: Links, output: Path | None) -> dict[str, Any]:
    return {
        "boards": [
            board.facts.values()
            | {"address": board.address.host, "port": board.address.port, "clock_ahead_s": board.clock_ahead_s}
            for board in boards
        ],
        "links": [
            {
                "source": boards[source].facts.name,
                "destination": boards[destination].facts.name,
                "bandwidth_bytes_per_s": figures.bandwidth_bytes_per_s,
                "latency_s": figures.latency_s,
            }
            for (source, destination), figures in sorted(links.items())
        ],
        "problems": list(found.problems),
        "files": [] if output is None else [str(path) for path in option_paths(output)],
    }
