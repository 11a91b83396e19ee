"""`edgeplan`: what a plan says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from edgecompile import __version__
from edgecompile.console import run_command
from edgecompile.explore import diff, explain, export, report, show, simulate

__all__ = ["main"]

_COMMANDS = {
    "show": (show, "the plan as tables: stages, hosts, links, predictions"),
    "explain": (explain, "what holds the plan back, what a change would bring, why a unit is where it is"),
    "diff": (diff, "what moved between two plans, what was asked for differently, what that costs and brings"),
    "simulate": (simulate, "play the plan through in time, as it is or with other figures"),
    "export": (export, "a simulated run, or a real one, as a trace for the Perfetto UI"),
    "report": (report, "one HTML file: the cluster, the plan on it, the timeline, what a run measured, sweeps"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 done, 2 the user's error in one line."""
    parser = argparse.ArgumentParser(prog="edgeplan", description="Reads plans that edgecompile wrote.")
    parser.add_argument("--version", action="version", version=f"edgeplan {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, what) in _COMMANDS.items():
        module.add_options(commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}."))
    chosen = parser.parse_args(arguments)
    return run_command("edgeplan", lambda: _COMMANDS[chosen.command][0].run(chosen))


if __name__ == "__main__":
    sys.exit(main())
