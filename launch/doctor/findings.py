"""The result of a doctor check, and how it is worded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan, Stage
from edgelaunch.common.identity import Endpoint
from edgelaunch.common.shard_files import StageFile, files_of, stages_of

__all__ = ["FAILS", "NOTE", "OK", "SLOWER", "Finding", "CheckContext", "first_line", "has_torch"]

OK, NOTE, FAILS = "ok", "note", "FAILS"
SLOWER = 0.9
"""A link or an interface that reaches this share of what was planned is as good."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    check: str
    found: str
    verdict: str = OK
    """`ok`, `note`: a run is possible, or `FAILS`."""
    fix: str = ""

    @staticmethod
    def of_error(check: str, error: UserError) -> Finding:
        return Finding(check=check, found=error.what, verdict=FAILS, fix=error.fix or "")


@dataclass(frozen=True, kw_only=True)
class CheckContext:
    """The rank, or on a machine that runs them all the ranks, that are looked at."""

    plan: Plan
    folder: Path
    ranks: tuple[int, ...]
    endpoint: Endpoint | None
    """Where rank 0 is met; None where all ranks are on this machine."""
    secret_file: Path | None = None

    def stages(self) -> list[Stage]:
        """All that these ranks may have to run, for the loss of another host too; equal shards of a rank once."""
        return [stage for rank in self.ranks for stage in stages_of(self.plan, rank)]

    def stage_files(self) -> list[StageFile]:
        """All that these ranks may have to load, each once."""
        found = {file.name: file for rank in self.ranks for file in files_of(self.plan, rank)}
        return list(found.values())

    def own_address(self) -> str:
        """Of the interface towards rank 0. Raises UserError where no way leads there."""
        if self.endpoint is None:
            return "127.0.0.1"
        from edgelaunch.transport.process_group import local_address

        return local_address(self.plan.hosts[self.ranks[0]].address, self.endpoint.address)


def has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
