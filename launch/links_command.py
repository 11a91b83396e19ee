"""`edgelaunch links PLAN`: its arguments, and how it runs on one rank. Imports no torch before it measures."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.plan import Plan, UserError, file_sha256
from edgelaunch.failures import Failure, rank_name
from edgelaunch.identity import choose_rank, find_endpoint
from edgelaunch.say import say

if TYPE_CHECKING:
    from edgelaunch.hosts_option import Figures

__all__ = ["add_arguments", "check_arguments", "measure", "rank_failure"]

MOST_SECONDS = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="PLAN", help="plan.yaml: its hosts are measured; shards are not needed")
    add("--rank", type=int, metavar="N", help="else the plan's host that is this machine, or $RANK")
    add("--master", metavar="ADDR:PORT", help="where rank 0 listens, else as the plan says")
    add("--secret-file", metavar="FILE", help="the shared secret, else $EDGELAUNCH_SECRET")
    add("--local", action="store_true", help="every rank on this machine: measures the loopback")
    add("--output", metavar="FILE", help="on rank 0: the hosts option, a .yaml file; without it, standard output")
    add("--seconds", type=float, default=0.5, metavar="S", help="how long a transfer takes at least (default 0.5)")
    add("--quiet", action="store_true", help="only the hosts option and errors")
    for hidden in ("--listen-fd", "--supervisor-fd", "--threads"):
        add(hidden, type=int, help=argparse.SUPPRESS)
    add("--loopback", action="store_true", help=argparse.SUPPRESS)


def check_arguments(arguments: argparse.Namespace, plan: Plan) -> None:
    """Raises UserError where an argument does not do, or there is nothing to measure."""
    if len(plan.hosts) < 2:
        raise UserError("the plan has one rank alone: there is no link to measure")
    if arguments.local and (arguments.rank is not None or arguments.master is not None):
        raise UserError("--local starts every rank here: leave out --rank and --master")
    if not 0 < arguments.seconds <= MOST_SECONDS:
        raise UserError(f"--seconds {arguments.seconds:g} does not do: it must be over 0, and {MOST_SECONDS:g} at most")
    if arguments.output is not None:
        output = Path(arguments.output)
        if output.suffix not in (".yaml", ".yml"):
            raise UserError(f"{output}: a hosts option is a .yaml file")
        if not output.parent.is_dir():
            raise UserError(f"{output.parent}: no such folder: make it, or name another --output")


def rank_failure(
    arguments: argparse.Namespace, plan: Plan, plan_path: Path, discard: list[Any], channel: socket.socket | None
) -> tuple[Failure | None, int]:
    """Measures as one rank of all; rank 0 prints and writes what was found."""
    failure, rank, found = measure(arguments, plan, plan_path)
    if failure is None and rank == 0:
        from edgelaunch.hosts_option import print_links

        print_links(plan, found, Path(arguments.output) if arguments.output else None, arguments.quiet)
    return failure, rank


def measure(
    arguments: argparse.Namespace, plan: Plan, plan_path: Path
) -> tuple[Failure | None, int, dict[tuple[int, int], Figures]]:
    """As one rank of all: why it failed, which rank this is, and on rank 0 the figures by source and destination."""
    rank = choose_rank(plan, arguments.rank, {} if arguments.loopback else os.environ)
    endpoint = find_endpoint(plan, arguments.master, os.environ, arguments.listen_fd)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a peer that ends is no page of C++ frames
    from edgelaunch.measure_links import LinkSupervisor
    from edgelaunch.rank import RankOptions
    from edgelaunch.secret import find_secret

    def log(text: str) -> None:
        if not arguments.quiet:
            say(f"{rank_name(plan, rank)}: {text}")

    options = RankOptions(
        plan=plan, folder=plan_path.resolve().parent, plan_sha256=file_sha256(plan_path), rank=rank,
        endpoint=endpoint, threads=1, device="cpu", log=log,
        secret=find_secret(plan, endpoint.address, arguments.secret_file, os.environ),
    )  # fmt: skip
    runner = LinkSupervisor(options, arguments.seconds)
    failure: Failure | None
    try:
        runner.start()
        failure = runner.wait()
    except KeyboardInterrupt:
        failure = Failure(rank=rank, kind="interrupted", message="was stopped by Ctrl-C")
    if failure is not None:
        runner.tell(failure)
    return failure, rank, runner.found
