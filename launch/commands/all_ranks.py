"""Runs all ranks on this machine for `--local` and `--emulate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.execution.allocator import use_one_arena
from edgelaunch.commands.arguments import run_parser
from edgelaunch.commands.one_rank import import_torch, rank_failure, run_rank
from edgelaunch.commands.rank_start import quiet_peers
from edgelaunch.common.failures import Failure
from edgelaunch.common.shard_files import check_rank
from edgelaunch.local.forked import ForkServer, check_beside
from edgelaunch.local.local_run import LocalRun
from edgelaunch.local.restarts import DEFAULT_RESTARTS
from edgelaunch.outputs.partial_results import say_left_behind
from edgelaunch.process.limits import check_limits
from edgelaunch.process.stderr import say

if TYPE_CHECKING:
    from edgelaunch.emulation.emulated_run import EmulatedRun

__all__ = ["run_together"]


def run_together(arguments: argparse.Namespace, plan: Plan, plan_path: Path, *, own_process: bool) -> Failure | None:
    """Runs all ranks; returns the first cause where they have not all ended well.

    `own_process`: nothing else runs in this process, so that it may fork.
    """
    check_limits(plan, tuple(range(len(plan.hosts))))
    if arguments.secret_file is not None:
        raise UserError("--secret-file is for ranks on several machines: those of this command share one of their own")
    if not arguments.quiet and any(host.execution == "cuda" for host in plan.hosts):
        option = "--emulate" if arguments.emulate else "--local"
        say(f"edgelaunch: {option} runs every rank on the CPU, also those planned for cuda")
    passed = [
        item
        for name in ("input", "output", "items", "rate", "when_full", "on_bad_item", "run", "metrics_port")
        if (value := getattr(arguments, name)) is not None
        for item in (f"--{name.replace('_', '-')}", str(value))
    ]
    passed += [f"--{name}" for name in ("verify", "resume", "json") if getattr(arguments, name)]
    restarts = DEFAULT_RESTARTS if arguments.restarts is None else arguments.restarts
    common = {"quiet": arguments.quiet, "max_threads": arguments.threads, "restarts": restarts}
    if arguments.emulate:
        from edgelaunch.emulation.emulated_run import EmulatedRun

        run: LocalRun | EmulatedRun = EmulatedRun(plan, plan_path, passed, **common)
    else:
        forks = partial(fork_server, plan, plan_path) if own_process and sys.platform == "linux" else None
        run = LocalRun(plan, plan_path, passed, **common, forks=forks)
    try:
        return run.run()
    finally:
        say_left_behind(arguments.output)


def fork_server(plan: Plan, plan_path: Path) -> ForkServer:
    """What ranks need, imported and checked before they are forked.

    Raises:
        UserError: a shard is missing or damaged.
    """
    quiet_peers()
    use_one_arena()
    folder = plan_path.resolve().parent

    def check() -> None:
        for rank in range(len(plan.hosts)):
            check_rank(plan, rank, folder)

    def run(words: Sequence[str]) -> NoReturn:
        run_rank(run_parser().parse_args(words), plan, plan_path, partial(rank_failure, checked=True))

    check_beside(check, partial(import_torch, session=True))
    return ForkServer(run)
