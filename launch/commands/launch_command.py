"""The `edgelaunch` command. Imports no torch before arguments and plan have been checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import print_anything
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_run_plan
from edgecompile.terminal.logs import LogForm, log_shown, show_logs
from edgelaunch.commands.check_request import check_run
from edgelaunch.commands.one_rank import describe, rank_failure, run_rank
from edgelaunch.common.failures import Failure, exit_code
from edgelaunch.process.limits import local_shortage
from edgelaunch.process.stderr import say, say_error, say_last
from edgelaunch.process.stopping import ToldToStop, hear_signals
from edgelaunch.request.boards_request import AgentRequest, BoardsRequest, ProfileRequest
from edgelaunch.request.links_request import DoctorRequest, LinksRequest
from edgelaunch.request.parsers import parse
from edgelaunch.request.serve_request import ServeRequest
from edgelaunch.request.top_request import TopRequest

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 2 after a user's error (one line on stderr), 130 after Ctrl-C; 1 with a traceback is our bug.

    A rank other than 0 that was told to stop, by SIGTERM or SIGHUP, ends with 143.
    """
    print_anything()
    hear_signals()
    words = sys.argv[1:] if argv is None else list(argv)
    with log_shown(LogForm(json="--log-json" in words)):  # what is wrong with the words, too
        return _answer(words, own_process=argv is None)


def _answer(words: Sequence[str], *, own_process: bool) -> int:
    try:
        return _run(words, own_process=own_process)
    except UserError as error:
        say_error(str(error))
        return 2
    except KeyboardInterrupt as stop:
        if isinstance(stop, ToldToStop) and words[:1] == ["serve"]:
            say("stopped before it served", about="edgelaunch", event="stopped")
            return 0  # as a service that has begun: who manages it must not take this for a failure
        say_last("interrupted", event="interrupted")
        return 130
    except Exception as error:
        if (shortage := local_shortage(error)) is None:
            raise
        say_error(shortage)
        return 2


def _run(words: Sequence[str], *, own_process: bool) -> int:
    request = parse(words)
    show_logs(request.log_form)
    if isinstance(request, AgentRequest | BoardsRequest | ProfileRequest | TopRequest):
        return _without_run(request)
    plan = read_run_plan(request.plan_path)
    if isinstance(request, LinksRequest):
        return _links(request, plan)
    if isinstance(request, DoctorRequest):
        return _doctor(request, plan)
    if isinstance(request, ServeRequest):
        from edgelaunch.commands.serve_command import run_serve

        return run_serve(request, plan)
    check_run(request, plan)
    if request.boards or request.ssh is not None:
        from edgelaunch.commands.on_boards.run_on_boards import run_on_boards

        return _status(run_on_boards(request, plan), plan)
    if not request.all_ranks:
        run_rank(request, plan, rank_failure)
    from edgelaunch.commands.all_ranks import run_together

    return _status(run_together(request, plan, own_process=own_process), plan)


def _without_run(request: AgentRequest | BoardsRequest | ProfileRequest | TopRequest) -> int:
    """What starts no rank of a plan's."""
    if isinstance(request, TopRequest):
        from edgelaunch.commands.top_command import run_top

        return run_top(request)
    if isinstance(request, AgentRequest):
        from edgelaunch.commands.on_boards.agent_command import run_agent

        return run_agent(request)
    if isinstance(request, BoardsRequest):
        from edgelaunch.commands.on_boards.boards_command import list_boards

        return list_boards(request)
    from edgelaunch.commands.on_boards.profile_boards import profile_boards

    return profile_boards(request)


def _links(request: LinksRequest, plan: Plan) -> int:
    from edgelaunch.commands import links_command

    links_command.check_links(request, plan)
    if not request.local:
        run_rank(request, plan, links_command.rank_failure)
    return _status(links_command.local_failure(request, plan), plan)


def _doctor(request: DoctorRequest, plan: Plan) -> int:
    from edgelaunch.commands import doctor_command

    doctor_command.check_doctor(request, plan)
    if not request.local:
        run_rank(request, plan, doctor_command.rank_failure)
    return _status(doctor_command.local_failure(request, plan), plan)


def _status(failure: Failure | None, plan: Plan) -> int:
    if failure is None:
        return 0
    describe(failure, plan, None)
    return exit_code(failure)
