"""`--local` and `--emulate` from the command line: every rank on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompile.plan import Plan
from edgelaunch.failures import Failure
from edgelaunch.local import LocalRun

if TYPE_CHECKING:
    from edgelaunch.emulate import EmulatedRun

__all__ = ["run_together"]


def run_together(arguments: argparse.Namespace, plan: Plan, plan_path: Path) -> Failure | None:
    """Runs all ranks; returns the first cause where they have not all ended well."""
    if not arguments.quiet and any(host.execution == "cuda" for host in plan.hosts):
        option = "--emulate" if arguments.emulate else "--local"
        print(f"edgelaunch: {option} runs every rank on the CPU, also those planned for cuda", file=sys.stderr)
    passed = [
        item
        for name in ("input", "output", "items", "rate", "when_full")
        if (value := getattr(arguments, name)) is not None
        for item in (f"--{name.replace('_', '-')}", str(value))
    ]
    if arguments.verify:
        passed.append("--verify")
    run = _kind(arguments.emulate)(plan, plan_path, passed, quiet=arguments.quiet, max_threads=arguments.threads)
    try:
        return run.run()
    finally:
        if arguments.output is not None:
            _remove_left_by(run.children.pids(), Path(arguments.output))


def _kind(emulate: bool) -> type[LocalRun] | type[EmulatedRun]:
    if not emulate:
        return LocalRun
    from edgelaunch.emulate import EmulatedRun

    return EmulatedRun


def _remove_left_by(processes: Iterable[int], output: Path) -> None:
    """A rank 0 that was killed could not do this itself."""
    from edgelaunch.outputs import temporary_path

    for process in processes:
        for left in output.parent.glob(temporary_path(output, process).name + "*"):
            left.unlink(missing_ok=True)
