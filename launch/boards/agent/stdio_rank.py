"""One rank for who reaches this board by ssh: what to do comes from standard input, the log goes to standard output.

The end of the input ends the rank, so that none is left where the connection breaks. Imports no torch.
"""

from __future__ import annotations

import io
import os
import sys
import threading

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan_file import MAX_PLAN_BYTES
from edgelaunch.boards.agent.plan_folders import PlanFolders
from edgelaunch.boards.agent.rank_job import Job
from edgelaunch.boards.job_orders import JobNews, JobOrder, read_object
from edgelaunch.common.failures import Failure
from edgelaunch.common.secret import VARIABLE
from edgelaunch.common.software import PROTOCOL, own_version

__all__ = ["serve_stdio"]

NEWS_S = 2.0
MOST_BYTES = 2 * MAX_PLAN_BYTES


def serve_stdio(folders: PlanFolders) -> int:
    """Until the rank has ended, or the input has. Returns the exit status."""
    try:
        job = _begin(folders)
    except UserError as error:
        _tell(JobNews(next=0, ended=True, failure=Failure.of(0, error)))
        return 2
    threading.Thread(target=_watch_input, args=(job,), daemon=True).start()
    since = 0
    try:
        while True:
            job.hear()
            news = job.log.news(since, NEWS_S)
            since = news.next
            _tell(news)
            if news.ended:
                return 0
    except OSError:
        return 1
    finally:
        job.end()


def _begin(folders: PlanFolders) -> Job:
    opened = read_object(sys.stdin.buffer.readline(MOST_BYTES))
    order, plan, secret = (opened.get(name) for name in ("order", "plan", "secret"))
    if opened.get("protocol") != PROTOCOL:
        raise UserError(f"this board has edgecompile {own_version()} (protocol {PROTOCOL}), and who asks protocol "
                        f"{opened.get('protocol')}", fix="install the same version of edgecompile on both")  # fmt: skip
    if not isinstance(order, str) or not isinstance(plan, str) or not isinstance(secret, str):
        raise UserError("what came is not for an agent: edgelaunch PLAN --ssh starts this")
    read, data = JobOrder.read(order.encode()), plan.encode()
    folders.keep_plan(read.plan_sha256, io.BytesIO(data), len(data))
    os.environ[VARIABLE] = secret
    return Job(read, folders, None, "ssh", lambda text: None)


def _watch_input(job: Job) -> None:
    while sys.stdin.buffer.read(1):
        continue
    job.end()


def _tell(news: JobNews) -> None:
    sys.stdout.buffer.write(news.to_json() + b"\n")
    sys.stdout.buffer.flush()
