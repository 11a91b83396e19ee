"""Runs all ranks on this machine for `--local` and `--emulate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edgecompile.contract.plan import Plan
from edgecompile.execution.allocator import use_one_arena
from edgelaunch.commands.one_rank import import_torch, rank_failure, run_rank
from edgelaunch.commands.web_option import open_page
from edgelaunch.common.failures import Failure
from edgelaunch.common.shard_files import check_rank
from edgelaunch.composition import quiet_peers
from edgelaunch.local.forked import ForkServer, check_beside
from edgelaunch.local.local_run import LocalRun
from edgelaunch.outputs.partial_results import say_left_behind
from edgelaunch.process.limits import check_limits
from edgelaunch.process.stderr import say
from edgelaunch.request.parsers import parse_run
from edgelaunch.request.run_request import RunRequest

if TYPE_CHECKING:
    from edgelaunch.emulation.emulated_run import EmulatedRun

__all__ = ["run_together"]


def run_together(request: RunRequest, plan: Plan, *, own_process: bool) -> Failure | None:
    """Runs all ranks; returns the first cause where they have not all ended well.

    `own_process`: nothing else runs in this process, so that it may fork.
    """
    check_limits(plan, tuple(range(len(plan.hosts))))
    if not request.quiet and any(host.execution == "cuda" for host in plan.hosts):
        option = "--emulate" if request.emulate else "--local"
        say(f"{option} runs every rank on the CPU, also those planned for cuda", about="edgelaunch")
    restarts = request.most_restarts
    web = open_page(request)
    if request.emulate:
        from edgelaunch.emulation.emulated_run import EmulatedRun

        run: LocalRun | EmulatedRun = EmulatedRun(
            plan, request, max_threads=request.threads, restarts=restarts, web=web
        )
    else:
        forks = partial(fork_server, plan, request.plan_path) if own_process and sys.platform == "linux" else None
        run = LocalRun(plan, request, max_threads=request.threads, restarts=restarts, forks=forks, web=web)
    try:
        return run.run()
    finally:
        say_left_behind(request.output)


def fork_server(plan: Plan, plan_path: Path, *, checks: bool = True) -> ForkServer:
    """What ranks need, imported and checked before they are forked; `checks`: False: each checks its own.

    Raises:
        UserError: a shard is missing or damaged.
    """
    quiet_peers()
    use_one_arena()
    folder = plan_path.resolve().parent

    def check() -> None:
        for rank in range(len(plan.hosts) if checks else 0):
            check_rank(plan, rank, folder)

    def run(words: Sequence[str]) -> NoReturn:
        run_rank(parse_run(words), plan, partial(rank_failure, checked=True))

    def again(words: Sequence[str]) -> NoReturn:
        run_rank(parse_run(words), plan, rank_failure)  # its files may have changed since

    check_beside(check, partial(import_torch, session=True))
    return ForkServer(run, again)
