"""The `edgeplan` command: dispatches to show, explain, compare and the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgecompile import __version__
from edgecompile.explore import compare, diff, explain, export, figure, report, show, simulate
from edgecompile.terminal.console import run_command
from edgecompile.terminal.encoding import restart_in_utf8
from edgecompile.terminal.options import Parser, add_completion, add_output_options

__all__ = ["main", "make_parser"]

_COMMANDS = {
    "show": (show, "the plan as tables: stages, hosts, links, predictions"),
    "explain": (explain, "what holds the plan back, what a change would bring, why a unit is where it is"),
    "compare": (compare, "plans side by side: scheduler, stages, throughput, latency, bottleneck, memory, bytes sent"),
    "diff": (diff, "what moved between two plans, which settings differ, what that costs and gains"),
    "simulate": (simulate, "simulate the plan over time, as it is or with other figures"),
    "export": (export, "a simulated run, or a real one, as a trace for the Perfetto UI"),
    "figure": (figure, "a plan, several plans or a sweep as PDF, PNG or SVG"),
    "report": (report, "one HTML file: the cluster, the plan on it, the timeline, what a run measured, sweeps"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 done, 2 the user's error in one line."""
    if arguments is None:
        restart_in_utf8()
    words = sys.argv[1:] if arguments is None else list(arguments)
    return run_command("edgeplan", lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    chosen = make_parser().parse_args(words)
    status: int = _COMMANDS[chosen.command][0].run(chosen)
    return status


def make_parser() -> Parser:
    """With a parser for each command."""
    parser = Parser(prog="edgeplan", description="Reads plans that edgecompile wrote.")
    parser.add_argument("--version", action="version", version=f"edgeplan {__version__}")
    add_completion(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, what) in _COMMANDS.items():
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        module.add_options(command)
        add_output_options(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
