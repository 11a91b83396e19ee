"""`--local` and `--emulate` from the command line: every rank on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgecompile.plan import Plan
from edgelaunch.emulate import EmulatedRun
from edgelaunch.failures import Failure
from edgelaunch.local import LocalRun
from edgelaunch.outputs import temporary_path

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
    kind = EmulatedRun if arguments.emulate else LocalRun
    run = kind(plan, plan_path, passed, quiet=arguments.quiet, max_threads=arguments.threads)
    try:
        return run.run()
    finally:
        if arguments.output is not None:  # a rank 0 that was killed could not do this itself
            for pid in run.children.pids():
                for left in Path(arguments.output).parent.glob(temporary_path(Path(arguments.output), pid).name + "*"):
                    left.unlink(missing_ok=True)
