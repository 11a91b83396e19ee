"""The one place where a rank's process is put together: for the command, for Pipeline and for the link test."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import Plan
from edgelaunch.common.addresses import Address
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.common.identity import (
    Endpoint,
    check_reachable,
    choose_rank,
    find_endpoint,
    is_loopback,
    rank_environment,
)
from edgelaunch.common.rank_log import RankLog
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.reports import KillRequest
from edgelaunch.common.secret import find_secret
from edgelaunch.common.shard_files import StageFile, check_rank, lacking
from edgelaunch.process.cores import available_cores, local_threads
from edgelaunch.process.limits import check_limits
from edgelaunch.request.rank_request import RankRequest
from edgelaunch.request.run_request import RunRequest
from edgelaunch.watching.runs_here import announce
from edgelaunch.watching.watched_rank import show_state

if TYPE_CHECKING:
    from edgelaunch.control.supervisor import Supervisor
    from edgelaunch.link_test.measure import LinkWork
    from edgelaunch.pipeline.result_counters import Ends

__all__ = [
    "RankStart",
    "import_runtime",
    "link_supervisor",
    "pipeline_rank",
    "quiet_peers",
    "run_supervisor",
    "supervised",
]

R = TypeVar("R", bound=RankRequest)


@dataclass(frozen=True, kw_only=True)
class RankStart(Generic[R]):
    """A rank's process once its request and its environment have been read."""

    request: R
    plan: Plan
    rank: int
    endpoint: Endpoint
    environ: Mapping[str, str]
    """What the environment says of ranks; nothing where a parent says all of it."""

    @staticmethod
    def of(request: R, plan: Plan, environ: Mapping[str, str]) -> RankStart[R]:
        """Raises UserError where nothing says which rank this is, or where rank 0 is met."""
        environ = {} if request.loopback else rank_environment(plan, environ)
        rank = choose_rank(plan, request.rank, environ)
        endpoint = find_endpoint(plan, request.master, environ, request.listen_fd)
        quiet_peers()
        return RankStart(request=request, plan=plan, rank=rank, endpoint=endpoint, environ=environ)

    def check(self) -> None:
        """Before torch is imported. Raises UserError where this process could not work, or not be reached."""
        check_limits(self.plan, (self.rank,))
        if not self.request.loopback:
            check_reachable(self.plan, self.rank, self.endpoint)

    @property
    def folder(self) -> Path:
        return self.request.plan_path.resolve().parent

    @cached_property
    def log(self) -> RankLog:
        return RankLog(self.plan, self.rank, quiet=self.request.quiet)

    def lacking(self) -> tuple[StageFile, ...]:
        """The shards and weights that are not here, to be fetched from rank 0.

        Raises:
            UserError: one is missing or damaged, and this rank reads the same folder as rank 0.
        """
        if self.rank > 0 and not self.request.loopback:
            return tuple(lacking(self.plan, self.rank, self.folder))
        check_rank(self.plan, self.rank, self.folder)
        return ()

    def options(self, *, threads: int, device: str, lacking: tuple[StageFile, ...] = ()) -> RankOptions:
        """Raises UserError where a secret is needed and there is none."""
        return RankOptions(
            plan=self.plan, folder=self.folder, plan_sha256=file_sha256(self.request.plan_path), rank=self.rank,
            endpoint=self.endpoint, threads=threads, device=device, log=self.log, lacking=lacking,
            secret=find_secret(self.plan, self.endpoint.address, self.request.secret_file, os.environ),
        )  # fmt: skip

    def threads(self) -> int:
        """Intra-op threads: as the plan says, but a share of them where several ranks are on one machine."""
        here = int(self.environ.get("LOCAL_WORLD_SIZE", "1")) if self.environ.get("RANK") else 1
        if here > 1:
            return local_threads(self.plan, self.rank, here)
        own = self.plan.hosts[self.rank]
        sharing = sum(host.address == own.address for host in self.plan.hosts)
        return own.threads or max(1, available_cores() // sharing)

    def device(self) -> str:
        """As planned; but where rank 0 is met on loopback all ranks share this machine: on the CPU, as with --local."""
        planned = self.plan.hosts[self.rank].execution
        if self.request.loopback or planned == "cpu":
            return "cpu"
        if self.request.master is not None and is_loopback(self.endpoint.address):
            self.log("planned for cuda; runs on the CPU, since --master on loopback puts every rank on this machine")
            return "cpu"
        return planned


def run_supervisor(
    start: RankStart[RunRequest],
    lacking: tuple[StageFile, ...],
    ends: Callable[[Plan], Ends] | None,
    request_kill: Callable[[KillRequest], None],
    last_resort: Callable[[Failure], None] = lambda failure: None,
) -> Supervisor:
    """A rank of the pipeline; `ends` makes rank 0's, the rest as of Supervisor. Imports torch."""
    threads = start.request.threads or start.threads()
    options = start.options(threads=threads, device=start.device(), lacking=lacking)
    runner = pipeline_rank(options, ends, request_kill, last_resort)
    _let_watch(start, options, runner)
    return runner


def _let_watch(start: RankStart[RunRequest], options: RankOptions, runner: Supervisor) -> None:
    """Lets `edgelaunch top` find this rank here, and see the run where it is rank 0."""
    endpoint = start.endpoint
    here = announce(rank=start.rank, plan=start.request.plan_path, plan_sha256=options.plan_sha256,
                    model=start.plan.model.name, master=str(Address(endpoint.address, endpoint.port)))  # fmt: skip
    if start.rank == 0:
        runner.beside("watched", lambda: show_state(runner, here, start.log))


def pipeline_rank(
    options: RankOptions,
    ends: Callable[[Plan], Ends] | None,
    request_kill: Callable[[KillRequest], None] = lambda request: None,
    last_resort: Callable[[Failure], None] = lambda failure: None,
) -> Supervisor:
    """The process of a rank whose work is a stage. Imports torch."""
    from edgelaunch.control.supervisor import Supervisor
    from edgelaunch.pipeline.stage_work import StageWork

    streams = ends(options.plan) if ends is not None else None
    return Supervisor(options, StageWork(options, streams), streams, request_kill, last_resort)


def link_supervisor(start: RankStart[R], seconds: float) -> tuple[Supervisor, LinkWork]:
    """A rank that measures its links, `seconds` a transfer, and what it found. Imports torch."""
    from edgelaunch.control.supervisor import Supervisor
    from edgelaunch.link_test.measure import LinkWork

    work = LinkWork(start.options(threads=1, device="cpu"), seconds)
    return Supervisor(work.options, work), work


def supervised(runner: Supervisor, rank: int, *, started: bool = False) -> Failure | None:
    """Runs it to its end; tells the other ranks where that is a failure, or where this rank leaves."""
    failure: Failure | None
    try:
        if not started:
            runner.start()
        failure = runner.wait()
    except KeyboardInterrupt as stop:
        failure = Failure.stopped(rank, stop)
    if failure is not None and failure.kind is FailureKind.LEFT:
        runner.leave(failure)
    elif failure is not None:
        runner.tell(failure)
    return failure


def import_runtime() -> None:
    """Imports what a rank of a pipeline needs, torch included."""
    import edgelaunch.control.supervisor
    import edgelaunch.pipeline.stage_work  # noqa: F401


def quiet_peers() -> None:
    """Before torch is imported: a peer that ends must not print a page of C++ frames, and where no name server answers,
    as in a network of boards alone, the name of its address, which torch asks for, must not take 10 s."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
