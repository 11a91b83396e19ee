"""`edgelaunch serve`: rank 0 answers HTTP requests, any other rank runs as usual."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.commands.check_request import check_run
from edgelaunch.commands.one_rank import describe, own_process, rank_failure, report, run_rank
from edgelaunch.common.failures import Failure, FailureKind, RankFailedError, exit_code
from edgelaunch.common.identity import choose_rank, rank_environment
from edgelaunch.local.watch_parent import watch_parent
from edgelaunch.process.limits import check_limits
from edgelaunch.process.stderr import say_error
from edgelaunch.request.serve_request import ServeRequest

__all__ = ["run_serve"]

PACKAGES = ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client")


def run_serve(request: ServeRequest, plan: Plan) -> int:
    """Returns 0 once a signal has ended it, 2 where a rank failed. Another rank than 0 ends this process itself."""
    if request.starts_rank_0:
        _check_packages()
        return _with_all_ranks(request, plan)
    if not request.local:
        rank = choose_rank(plan, request.rank, rank_environment(plan, os.environ))
        request = replace(request, rank=rank)
        if rank != 0:
            run = request.run_request()
            check_run(run, plan)
            run_rank(run, plan, rank_failure)
    _check_packages()
    if request.supervisor_fd is not None:
        return _for_parent(request, request.supervisor_fd)
    try:
        _serve(request)
    except RankFailedError as error:
        say_error(str(error))
        return 2
    return 0


def _check_packages() -> None:
    for package in PACKAGES:
        if find_spec(package) is None:
            raise UserError(f"edgelaunch serve needs {package.replace('_', '-')}: pip install 'edgecompile[serve]'")


def _serve(request: ServeRequest) -> None:
    from edgelaunch.serve.serving import serve

    serve(request, request.api_key_file, dict(os.environ), own_process)


def _for_parent(request: ServeRequest, descriptor: int) -> int:
    """As a rank that a parent started: that one tells the user why it ended."""
    channel = watch_parent(descriptor)
    try:
        _serve(request)
    except RankFailedError as error:
        report(channel, Failure(rank=0, kind=FailureKind.USER, message=str(error)))
    except UserError as error:
        report(channel, Failure.of(0, error))
    else:
        return 0
    return 2


def _with_all_ranks(request: ServeRequest, plan: Plan) -> int:
    """Rank 0, which answers, and the others, each where it belongs."""
    restarts = request.most_restarts
    try:
        if request.emulate:
            from edgelaunch.emulation.emulated_run import EmulatedRun
            from edgelaunch.process.listener import OTHER_PLACE, listen_at

            check_limits(plan, tuple(range(len(plan.hosts))))
            # made here: rank 0 has a network of its own, which nobody reaches
            with listen_at(request.bind, request.port, OTHER_PLACE) as listener:
                request = replace(request, http_fd=listener.fileno())
                failure = EmulatedRun(plan, request, max_threads=request.threads, restarts=restarts).run()
        else:
            from edgelaunch.commands.on_boards.run_on_boards import run_on_boards

            failure = run_on_boards(request, plan)
    except KeyboardInterrupt:  # rank 0 has answered what was under way, and said so
        return 0
    if failure is None:
        return 0
    describe(failure, plan, None)
    return exit_code(failure)
