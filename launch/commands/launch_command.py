"""The `edgelaunch` command. Imports no torch before arguments and plan have been checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_run_plan
from edgecompile.contract.user_files import print_anything
from edgelaunch.commands.arguments import COMMANDS, check_arguments, check_first_word, command_parser, run_parser
from edgelaunch.commands.one_rank import describe, rank_failure, run_rank
from edgelaunch.common.failures import Failure, exit_code
from edgelaunch.process.limits import local_shortage
from edgelaunch.process.stderr import say, say_error
from edgelaunch.process.stopping import hear_signals

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 2 after a user's error (one line on stderr), 130 after Ctrl-C; 1 with a traceback is our bug.

    A rank other than 0 that was told to stop, by SIGTERM or SIGHUP, ends with 143.
    """
    print_anything()
    hear_signals()
    try:
        words = sys.argv[1:] if argv is None else list(argv)
        if words[:1] and words[0] in COMMANDS:
            return _command(words[0], words[1:])
        return _run(words, own_process=argv is None)
    except UserError as error:
        say_error(str(error))
        return 2
    except KeyboardInterrupt:
        say("edgelaunch: interrupted")
        return 130
    except Exception as error:
        if (shortage := local_shortage(error)) is None:
            raise
        say_error(shortage)
        return 2


def _run(words: Sequence[str], *, own_process: bool) -> int:
    if words:
        check_first_word(words[0])
    arguments = run_parser().parse_args(words)
    plan_path = Path(arguments.plan)
    plan = read_run_plan(plan_path)
    check_arguments(arguments, plan)
    if not (arguments.local or arguments.emulate):
        run_rank(arguments, plan, plan_path, rank_failure)
    from edgelaunch.commands.all_ranks import run_together

    return _status(run_together(arguments, plan, plan_path, own_process=own_process), plan)


def _command(name: str, words: Sequence[str]) -> int:
    command = import_module(f"edgelaunch.commands.{name}_command")
    arguments = command_parser(name).parse_args(words)
    plan_path = Path(arguments.plan)
    plan = read_run_plan(plan_path)
    command.check_arguments(arguments, plan)
    if not arguments.local:
        run_rank(arguments, plan, plan_path, command.rank_failure)
    return _status(command.local_failure(arguments, plan, plan_path), plan)


def _status(failure: Failure | None, plan: Plan) -> int:
    if failure is None:
        return 0
    describe(failure, plan, None)
    return exit_code(failure)
