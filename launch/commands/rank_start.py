"""Shared start-up of single-rank commands: which rank this is, where the ranks meet, how it ends."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompile.contract.atomic_files import file_sha256
from edgecompile.contract.plan import Plan, Stage
from edgelaunch.common.failures import Failure, rank_name
from edgelaunch.common.identity import Endpoint, check_reachable, choose_rank, find_endpoint, rank_environment
from edgelaunch.common.secret import find_secret
from edgelaunch.process.limits import check_limits
from edgelaunch.process.stderr import say

if TYPE_CHECKING:
    from edgelaunch.common.rank_options import RankOptions
    from edgelaunch.control.supervisor import Supervisor

__all__ = ["Start", "quiet_peers", "supervised"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """A rank's process once its arguments and its environment have been read."""

    arguments: argparse.Namespace
    plan: Plan
    plan_path: Path
    rank: int
    endpoint: Endpoint

    @staticmethod
    def of(arguments: argparse.Namespace, plan: Plan, plan_path: Path) -> Start:
        """Raises UserError where nothing says which rank this is, or where rank 0 is met."""
        environ: Mapping[str, str] = {} if arguments.loopback else rank_environment(plan, os.environ)
        rank = arguments.rank = choose_rank(plan, arguments.rank, environ)
        endpoint = find_endpoint(plan, arguments.master, environ, arguments.listen_fd)
        quiet_peers()
        return Start(arguments=arguments, plan=plan, plan_path=plan_path, rank=rank, endpoint=endpoint)

    def check(self) -> None:
        """Before torch is imported. Raises UserError where this process could not work, or not be reached."""
        check_limits(self.plan, (self.rank,))
        if not self.arguments.loopback:
            check_reachable(self.plan, self.rank, self.endpoint)

    @property
    def folder(self) -> Path:
        return self.plan_path.resolve().parent

    def log(self, text: str) -> None:
        if not self.arguments.quiet:
            say(f"{rank_name(self.plan, self.rank)}: {text}")

    def options(self, *, threads: int, device: str, lacking: tuple[Stage, ...] = ()) -> RankOptions:
        """Raises UserError where a secret is needed and there is none."""
        from edgelaunch.common.rank_options import RankOptions

        return RankOptions(
            plan=self.plan, folder=self.folder, plan_sha256=file_sha256(self.plan_path), rank=self.rank,
            endpoint=self.endpoint, threads=threads, device=device, log=self.log, lacking=lacking,
            secret=find_secret(self.plan, self.endpoint.address, self.arguments.secret_file, os.environ),
        )  # fmt: skip


def quiet_peers() -> None:
    """Before torch is imported: a peer that ends must not print a page of C++ frames."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def supervised(runner: Supervisor, rank: int) -> Failure | None:
    """Runs it to its end; tells the other ranks where that is a failure, or where this rank leaves."""
    failure: Failure | None
    try:
        runner.start()
        failure = runner.wait()
    except KeyboardInterrupt as stop:
        failure = Failure.stopped(rank, stop)
    if failure is not None and failure.kind == "left":
        runner.leave(failure)
    elif failure is not None:
        runner.tell(failure)
    return failure
