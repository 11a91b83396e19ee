"""`edgelaunch links PLAN`: how it runs on one rank and on all. Imports no torch before it measures."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import check_ours, check_overwrite
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import files_of_plan
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.composition import RankStart, link_supervisor, supervised
from edgelaunch.link_test.hosts_option import DEVICES_BEGIN, HOSTS, devices_beside
from edgelaunch.request.links_request import LinksRequest
from edgelaunch.request.rank_request import RankRequest

if TYPE_CHECKING:
    from edgelaunch.link_test.hosts_option import Figures

__all__ = ["check_links", "check_measurable", "local_failure", "measure", "rank_failure"]

R = TypeVar("R", bound=RankRequest)


def check_links(request: LinksRequest, plan: Plan) -> None:
    """Raises UserError where there is nothing to measure, or the output would overwrite something."""
    check_measurable(plan)
    if request.output is not None:
        _check_output(request.output, request.secret_file, request.plan_path, plan)


def check_measurable(plan: Plan) -> None:
    """Raises UserError where there is nothing to measure."""
    if len(plan.hosts) < 2:
        raise UserError("the plan has only one rank: there is no link to measure")


def _check_output(output: Path, secret_file: Path | None, plan_path: Path, plan: Plan) -> None:
    if not output.parent.is_dir() and output.parent.name != HOSTS:
        raise UserError(f"{output.parent}: no such folder: make it, or name another --output")
    read = list(files_of_plan(plan, plan_path))
    if secret_file is not None:
        read.append((secret_file, "the secret"))
    check_overwrite(output, "--output", read)
    devices = devices_beside(output)
    if devices is not None:
        check_ours(devices, re.escape(DEVICES_BEGIN), "devices option of edgelaunch links", "name another --output")


def local_failure(request: LinksRequest, plan: Plan) -> Failure | None:
    """Every rank on this machine."""
    from edgelaunch.local.local_run import LocalRun

    return LocalRun(plan, request, max_threads=1, restarts=0).run()


def rank_failure(start: RankStart[LinksRequest], discard: list[Any], channel: object) -> Failure | None:
    """Measures as one rank of all; rank 0 prints and writes what was found."""
    request = start.request
    failure, found = measure(start, request.seconds)
    if failure is None and start.rank == 0:
        from edgelaunch.link_test.hosts_option import print_links

        print_links(start.plan, found, request.output, quiet=request.quiet, as_json=request.json)
    elif failure is not None and failure.kind is FailureKind.INTERRUPTED and found and not request.json:
        from edgelaunch.link_test.hosts_option import print_measured

        print_measured(start.plan, found, sys.stdout)
    return failure


def measure(start: RankStart[R], seconds: float) -> tuple[Failure | None, dict[tuple[int, int], Figures]]:
    """As one rank of all: why it failed, and on rank 0 the figures by source and destination."""
    start.check()
    runner, work = link_supervisor(start, seconds)
    return supervised(runner, start.rank), work.found
