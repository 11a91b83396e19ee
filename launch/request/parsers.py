"""From the words of a command line to a request. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from edgecompile.contract.errors import UserError
from edgecompile.terminal.options import Parser, add_completion, nearest
from edgelaunch.request.boards_request import AgentRequest, BoardsRequest, ProfileRequest
from edgelaunch.request.links_request import DoctorRequest, LinksRequest
from edgelaunch.request.log_options import check_log
from edgelaunch.request.option_fields import add_options, read_options
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.serve_request import ServeRequest
from edgelaunch.request.top_request import TopRequest

__all__ = ["Request", "command_parser", "parse", "parse_run", "run_parser"]

Request = (
    RunRequest
    | LinksRequest
    | DoctorRequest
    | ServeRequest
    | TopRequest
    | AgentRequest
    | BoardsRequest
    | ProfileRequest
)
COMMANDS: dict[str, tuple[type[Request], str]] = {
    LinksRequest.COMMAND: (
        LinksRequest,
        "Measure bandwidth and latency between all pairs of a plan's hosts; start it on each of them.",
    ),
    DoctorRequest.COMMAND: (
        DoctorRequest,
        "Check a rank before a run: what is there, what is not, and what to do about it. Exit status 2 where something "
        "fails.",
    ),
    ServeRequest.COMMAND: (
        ServeRequest,
        "Serve a plan over HTTP: predictions, embeddings, completions and chat, as OpenAI's clients ask for them.",
    ),
    TopRequest.COMMAND: (
        TopRequest,
        "Watch a pipeline that runs, from any board: its stages, rates and links beside what was predicted. Without a "
        "plan: list those that run on this machine.",
    ),
    AgentRequest.COMMAND: (
        AgentRequest,
        "Run on a board, from its start on: announces it, and runs one rank at a time for who knows the secret.",
    ),
    BoardsRequest.COMMAND: (
        BoardsRequest,
        "List the boards whose agents are there: what they are, and what they have; with --output, as options for "
        "edgecompile.",
    ),
    ProfileRequest.COMMAND: (
        ProfileRequest,
        "Run edgeprofile on all boards at once, and bring the profiles here.",
    ),
}
"""By the word that a command has in a plan's place: what it can be asked, and what it is for."""


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        from edgelaunch import __version__

        print(f"edgelaunch {__version__}")
        parser.exit()


def parse(words: Sequence[str]) -> Request:
    """Raises UserError where the words are not a request. --help, --version and --completion end the process."""
    if words[:1] and words[0] in COMMANDS:
        request = read_options(COMMANDS[words[0]][0], command_parser(words[0]).parse_args(words[1:]))
        check_log(request.log_level, quiet=not isinstance(request, TopRequest) and request.quiet)
        return request
    if words:
        _check_first_word(words[0])
    return parse_run(words)


def parse_run(words: Sequence[str]) -> RunRequest:
    """As `parse`, of words that begin with no command."""
    request = read_options(RunRequest, run_parser().parse_args(words))
    check_log(request.log_level, quiet=request.quiet)
    return request


def _check_first_word(word: str) -> None:
    """Raises UserError where it is not a plan, and nearly a command."""
    near = nearest(word, COMMANDS)
    if near and not Path(word).exists():
        raise UserError(f"{word}: no such plan and no such command: did you mean edgelaunch {near[0]}?")


def command_parser(name: str) -> Parser:
    """Of one of COMMANDS."""
    request, description = COMMANDS[name]
    parser = Parser(prog=f"edgelaunch {name}", description=description)
    add_options(parser, request)
    return parser


def run_parser(*, plan: bool = True) -> Parser:
    """`plan`: whether it takes the plan's path."""
    parser = Parser(
        prog="edgelaunch",
        description="Run one rank of a plan, or with --local, --emulate, --boards or --ssh all of them.",
        epilog="edgelaunch links PLAN measures the links between a plan's hosts; edgelaunch doctor PLAN checks a rank "
        "before a run; edgelaunch top shows what runs; edgelaunch serve PLAN answers HTTP requests; edgelaunch agent "
        "on each board lets edgelaunch boards list them, and --boards start ranks on them: see their --help",
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    add_options(parser, RunRequest, plan=plan, grouped=True)
    add_completion(parser, _completed_parser)
    return parser


def _completed_parser() -> Parser:
    """What a shell completes: in a plan's place a command may stand."""
    parser = run_parser(plan=False)
    commands = parser.add_subparsers(metavar="PLAN")
    for name, (request, description) in COMMANDS.items():
        add_options(commands.add_parser(name, help=description), request)
    return parser
