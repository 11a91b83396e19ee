"""`--local` and `--emulate` from the command line: every rank on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.common.failures import Failure
from edgelaunch.common.limits import check_limits
from edgelaunch.common.stderr import say
from edgelaunch.local.local_run import LocalRun
from edgelaunch.local.restarts import DEFAULT_RESTARTS
from edgelaunch.outputs.partial_results import say_left_behind

if TYPE_CHECKING:
    from edgelaunch.emulation.cluster import EmulatedRun

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
        from edgelaunch.emulation.cluster import EmulatedRun

        run: LocalRun | EmulatedRun = EmulatedRun(plan, plan_path, passed, **common)
    else:
        run = LocalRun(plan, plan_path, passed, **common, forks=own_process and sys.platform == "linux")
    try:
        return run.run()
    finally:
        say_left_behind(arguments.output)
