"""The `edgelaunch links` command: its arguments, and its run on one rank. Imports torch only to measure."""

from __future__ import annotations

import argparse
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_files import files_of_plan
from edgecompile.contract.user_files import check_ours, check_overwrite
from edgelaunch.commands.arguments import add_rank_arguments
from edgelaunch.commands.rank_start import Start, supervised
from edgelaunch.common.failures import Failure
from edgelaunch.link_test.hosts_option import DEVICES_BEGIN, HOSTS, devices_beside

if TYPE_CHECKING:
    from edgelaunch.link_test.hosts_option import Figures

__all__ = ["DESCRIPTION", "add_arguments", "check_arguments", "local_failure", "measure", "rank_failure"]

DESCRIPTION = "Measure bandwidth and latency between all pairs of a plan's hosts; start it on each of them."
MOST_SECONDS = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="plan.yaml: its hosts are measured; shards are not needed")
    add_rank_arguments(add)
    add("--local", action="store_true", help="every rank on this machine: measures the loopback")
    add(
        "--output",
        metavar="FILE",
        help="on rank 0: the hosts option, a .yaml file; without it, standard output. In a "
        "folder called hosts it has its devices option beside it",
    )
    add(
        "--seconds", type=float, default=0.5, metavar="S", help="least duration of a transfer, in seconds (default 0.5)"
    )
    add("--quiet", action="store_true", help="only the hosts option and errors")
    add("--json", action="store_true", help="on rank 0: for scripts, what was measured as JSON on standard output")
    add("--threads", type=int, help=argparse.SUPPRESS)  # as every rank of a local run is given


def check_arguments(arguments: argparse.Namespace, plan: Plan) -> None:
    """Raises UserError where an argument is invalid, or there is nothing to measure."""
    if len(plan.hosts) < 2:
        raise UserError("the plan has only one rank: there is no link to measure")
    if arguments.local and (arguments.rank is not None or arguments.master is not None):
        raise UserError("--local starts every rank here: leave out --rank and --master")
    if not 0 < arguments.seconds <= MOST_SECONDS:
        raise UserError(f"invalid value {arguments.seconds:g} for --seconds: expected over 0, at most {MOST_SECONDS:g}")
    if arguments.output is not None:
        output = Path(arguments.output)
        if output.suffix not in (".yaml", ".yml"):
            raise UserError(f"{output}: a hosts option is a .yaml file")
        if not output.parent.is_dir() and output.parent.name != HOSTS:
            raise UserError(f"{output.parent}: no such folder: make it, or name another --output")
        read = list(files_of_plan(plan, Path(arguments.plan)))
        if arguments.secret_file is not None:
            read.append((Path(arguments.secret_file), "the secret"))
        check_overwrite(output, "--output", read)
        devices = devices_beside(output)
        if devices is not None:
            check_ours(devices, re.escape(DEVICES_BEGIN), "devices option of edgelaunch links", "name another --output")


def local_failure(arguments: argparse.Namespace, plan: Plan, plan_path: Path) -> Failure | None:
    """Every rank on this machine."""
    from edgelaunch.local.local_run import LocalRun

    passed = ["--output", arguments.output] if arguments.output is not None else []
    passed += ["--json"] if arguments.json else []
    run = LocalRun(plan, plan_path, passed, quiet=arguments.quiet, max_threads=1, restarts=0,
                   command=("links", "--seconds", str(arguments.seconds)))  # fmt: skip
    return run.run()


def rank_failure(
    arguments: argparse.Namespace, plan: Plan, plan_path: Path, discard: list[Any], channel: socket.socket | None
) -> tuple[Failure | None, int]:
    """Measures as one rank of all; rank 0 prints and writes what was found."""
    start = Start.of(arguments, plan, plan_path)
    failure, found = measure(start)
    if failure is None and start.rank == 0:
        from edgelaunch.link_test.hosts_option import print_links

        output = Path(arguments.output) if arguments.output else None
        print_links(plan, found, output, quiet=arguments.quiet, as_json=arguments.json)
    elif failure is not None and failure.kind == "interrupted" and found and not arguments.json:
        from edgelaunch.link_test.hosts_option import print_measured

        print_measured(plan, found, sys.stdout)
    return failure, start.rank


def measure(start: Start) -> tuple[Failure | None, dict[tuple[int, int], Figures]]:
    """As one rank of all: why it failed, and on rank 0 the figures by source and destination."""
    start.check()
    from edgelaunch.link_test.measure import LinkSupervisor

    runner = LinkSupervisor(start.options(threads=1, device="cpu"), start.arguments.seconds)
    return supervised(runner, start.rank), runner.found
