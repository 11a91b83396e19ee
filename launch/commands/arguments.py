"""The command-line arguments of edgelaunch, and checks on their combinations. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.terminal.options import Parser, add_completion, nearest
from edgelaunch.common.items import DEFAULT_ITEMS, ON_BAD_ITEM, STDIN, WHEN_FULL
from edgelaunch.local.restarts import DEFAULT_RESTARTS

__all__ = ["COMMANDS", "add_rank_arguments", "check_arguments", "check_first_word", "command_parser", "run_parser"]

COMMANDS = ("links", "doctor")
"""Each a module `NAME_command` with DESCRIPTION, add_arguments, check_arguments, local_failure and rank_failure."""
MAX_RATE_PER_S = 1e6


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        from edgelaunch import __version__

        print(f"edgelaunch {__version__}")
        parser.exit()


def add_rank_arguments(add: Callable[..., object]) -> None:
    """What every command has that runs on each rank; `add`: a parser's `add_argument`."""
    add("--rank", type=int, metavar="N", help="else the plan's host that is this machine, or $RANK")
    add("--master", metavar="ADDR:PORT", help="where rank 0 listens, else as the plan says")
    add("--secret-file", metavar="FILE", help="the shared secret, else $EDGELAUNCH_SECRET")
    for hidden in ("--listen-fd", "--supervisor-fd"):  # from the process that started this one
        add(hidden, type=int, help=argparse.SUPPRESS)
    add("--loopback", action="store_true", help=argparse.SUPPRESS)


def check_first_word(word: str) -> None:
    """Raises UserError where it is not a plan, and nearly a command."""
    near = nearest(word, COMMANDS)
    if near and not Path(word).exists():
        raise UserError(f"{word}: no such plan and no such command: did you mean edgelaunch {near[0]}?")


def command_parser(name: str) -> Parser:
    """Of one of COMMANDS."""
    command = import_module(f"edgelaunch.commands.{name}_command")
    parser = Parser(prog=f"edgelaunch {name}", description=command.DESCRIPTION)
    command.add_arguments(parser)
    return parser


def _completed_parser() -> Parser:
    """What a shell completes: in a plan's place a command may stand."""
    parser = _options_parser()
    commands = parser.add_subparsers(metavar="PLAN")
    for name in COMMANDS:
        command = import_module(f"edgelaunch.commands.{name}_command")
        command.add_arguments(commands.add_parser(name, help=command.DESCRIPTION))
    return parser


def run_parser() -> Parser:
    parser = _options_parser()
    parser.add_argument("plan", metavar="PLAN", help="plan.yaml, written by edgecompile")
    return parser


def _options_parser() -> Parser:
    parser = Parser(
        prog="edgelaunch",
        description="Run one rank of a plan, or with --local or --emulate all of them.",
        epilog="edgelaunch links PLAN measures the links between a plan's hosts; edgelaunch doctor PLAN checks a rank "
        "before a run: see their --help",
    )
    add = parser.add_argument
    add("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    which = parser.add_argument_group("which rank")
    add_rank_arguments(which.add_argument)
    which.add_argument("--local", action="store_true", help="start every rank on this machine, on the CPU")
    which.add_argument(
        "--emulate", action="store_true",
        help="the same, each rank with its host's bandwidth, CPU share and memory limit (Linux, root)",
    )  # fmt: skip
    which.add_argument("--threads", type=int, metavar="N", help="intra-op threads, else as the plan says")
    which.add_argument(
        "--restarts", type=int, metavar="N",
        help="with --local or --emulate: how often to restart a rank that was killed or lost "
        f"(default {DEFAULT_RESTARTS})",
    )  # fmt: skip
    data = parser.add_argument_group("data, on rank 0")
    data.add_argument(
        "--input",
        metavar="PATH",
        help=".npy .npz .safetensors .txt .jsonl .tsv, an image, a folder of images, or - for "
        "standard input: a line a sentence or image path, or JSON with an array by input name",
    )
    data.add_argument("--rate", type=float, metavar="R", help="feed R items a second, whether results keep up or not")
    data.add_argument(
        "--when-full",
        choices=WHEN_FULL,
        metavar="POLICY",
        help="wait (default) or drop-oldest: what to do with live items that the pipeline cannot take",
    )
    data.add_argument(
        "--on-bad-item",
        choices=ON_BAD_ITEM,
        metavar="POLICY",
        help="stop (default) or gap: what to do with an image or a line that cannot be read; a gap is an `error` in a "
        ".jsonl, NaN (or 0) in arrays",
    )
    data.add_argument("--output", metavar="PATH", help="results as .npy, .npz or .jsonl")
    data.add_argument(
        "--resume", action="store_true", help="continue where an earlier run with the same --output stopped"
    )
    data.add_argument(
        "--items", type=int, metavar="N", help=f"stop after so many; without --input, default {DEFAULT_ITEMS}"
    )
    data.add_argument("--verify", action="store_true", help="compare with the golden items of the plan")
    add("--quiet", action="store_true", help="only results and errors")
    add("--json", action="store_true", help="on rank 0: one JSON object on standard output instead of tables")
    add("--run", metavar="FILE", help="on rank 0: the run's record for edgeplan report (default: run.json by the plan)")
    add("--metrics-port", metavar="[ADDR:]PORT", help="serve this rank's counters to Prometheus there")
    add_completion(parser, _completed_parser)
    return parser


def check_arguments(arguments: argparse.Namespace, plan: Plan) -> None:
    for name in ("items", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"invalid value {value} for --{name}: expected 1 or more")
    live = arguments.rate is not None or arguments.input == STDIN
    if arguments.resume and (live or (arguments.output is None and arguments.rank in (None, 0))):
        raise UserError("--resume continues an --output, with the same --input as before: a file or a folder")
    if arguments.local and arguments.emulate:
        raise UserError("--local and --emulate both start every rank here: give one of them")
    together = arguments.local or arguments.emulate
    if together and (arguments.rank is not None or arguments.master is not None):
        option = "--local" if arguments.local else "--emulate"
        raise UserError(f"{option} starts every rank here: leave out --rank and --master")
    if arguments.restarts is not None and (arguments.restarts < 0 or not together):
        raise UserError(
            f"invalid value {arguments.restarts} for --restarts: expected 0 or more, with --local or --emulate"
        )
    if arguments.input not in (None, STDIN) and not Path(arguments.input).exists():
        raise UserError(f"{arguments.input}: no such input")
    _check_live(arguments)
    _check_reports(arguments)
    if arguments.output is not None and (together or arguments.rank in (None, 0)):
        from edgelaunch.outputs.result_files import check_output

        check_output(plan, Path(arguments.output))
    if together or arguments.rank in (None, 0):
        from edgelaunch.outputs.overwrite import check_written

        check_written(arguments, plan)


def _check_reports(arguments: argparse.Namespace) -> None:
    if arguments.run is not None and not Path(arguments.run).absolute().parent.is_dir():
        raise UserError(f"{arguments.run}: its folder does not exist: create it, or name another --run")
    if arguments.metrics_port is not None:
        from edgelaunch.report.metrics import parse_port

        parse_port(arguments.metrics_port)


def _check_live(arguments: argparse.Namespace) -> None:
    if arguments.rate is not None and not 0 < arguments.rate <= MAX_RATE_PER_S:
        raise UserError(
            f"invalid value {arguments.rate:g} for --rate: expected a number greater than 0, at most {MAX_RATE_PER_S:g}"
        )
    if arguments.when_full is not None and arguments.rate is None and arguments.input != STDIN:
        raise UserError("--when-full is for live items: give --rate R, or --input - for standard input")
    drops = arguments.when_full == "drop-oldest"
    if drops and arguments.output is not None and not arguments.output.lower().endswith(".jsonl"):
        raise UserError(f"{arguments.output}: has no place for the items' numbers, and --when-full drop-oldest leaves "
                        "gaps: name a .jsonl")  # fmt: skip
