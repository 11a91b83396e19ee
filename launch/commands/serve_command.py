"""`edgelaunch serve`: rank 0 answers HTTP requests, any other rank runs as usual."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.commands.check_request import check_run
from edgelaunch.commands.one_rank import own_process, rank_failure, run_rank
from edgelaunch.common.failures import RankFailedError
from edgelaunch.common.identity import choose_rank, rank_environment
from edgelaunch.process.stderr import say_error
from edgelaunch.request.serve_request import ServeRequest

__all__ = ["run_serve"]

PACKAGES = ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client")


def run_serve(request: ServeRequest, plan: Plan) -> int:
    """Returns 0 once a signal has ended it, 2 where a rank failed. Another rank than 0 ends this process itself."""
    if not request.local:
        rank = choose_rank(plan, request.rank, rank_environment(plan, os.environ))
        request = replace(request, rank=rank)
        if rank != 0:
            run = request.run_request()
            check_run(run, plan)
            run_rank(run, plan, rank_failure)
    for package in PACKAGES:
        if find_spec(package) is None:
            raise UserError(f"edgelaunch serve needs {package.replace('_', '-')}: pip install 'edgecompile[serve]'")
    from edgelaunch.serve.serving import serve

    try:
        serve(request, request.api_key_file, dict(os.environ), own_process)
    except RankFailedError as error:
        say_error(str(error))
        return 2
    return 0
