"""Checks that a plan's files exist and have the recorded sha256."""

from __future__ import annotations

from pathlib import Path

from edgecompile.contract.atomic_files import file_sha256
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan, Stage
from edgelaunch.common.failures import NamedRankError, rank_name

__all__ = ["check_file", "check_rank", "check_shard", "lacking", "stages_of"]


def check_file(path: Path, sha256: str, what: str, fix: str) -> None:
    """Compares a file of the plan with the hash that the plan has of it.

    Raises:
        UserError: the file is missing, cannot be read, or has other bytes.
    """
    try:
        found = file_sha256(path)
    except FileNotFoundError:
        raise UserError(f"{what} is missing", key=str(path), fix=fix) from None
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error.strerror}", key=str(path)) from None
    if found != sha256:
        raise UserError(
            f"{what} is damaged or belongs to another plan (sha256 {found[:12]}, not {sha256[:12]})",
            key=str(path), fix=fix,
        )  # fmt: skip


def check_shard(plan: Plan, stage: Stage, folder: Path) -> None:
    """Raises UserError, naming file and rank, where the shard's bytes are not those that the plan was written with."""
    what = f"the shard of {rank_name(plan, stage.rank)}"
    try:
        check_file(folder / stage.shard, stage.sha256, what, "copy it again from where the plan was compiled")
    except UserError as error:
        raise NamedRankError(error.problem, key=error.key, fix=error.fix) from None


def stages_of(plan: Plan, rank: int) -> list[Stage]:
    """All stages whose shards a rank may need: its own, and those for the loss of another host; equal shards once."""
    stages = [stage for stages in (plan.stages, *(item.stages for item in plan.contingencies)) for stage in stages]
    by_hash: dict[str, Stage] = {}
    for stage in stages:
        if stage.rank == rank:
            by_hash.setdefault(stage.sha256, stage)
    return list(by_hash.values())


def check_rank(plan: Plan, rank: int, folder: Path) -> None:
    """Checks all shards that a rank may need.

    Raises:
        UserError: as check_shard does.
    """
    for stage in stages_of(plan, rank):
        check_shard(plan, stage, folder)


def lacking(plan: Plan, rank: int, folder: Path) -> list[Stage]:
    """Those whose shard is not in the plan's folder, or has other bytes than the plan says.

    Raises:
        UserError: one is there and cannot be read.
    """
    found = []
    for stage in stages_of(plan, rank):
        path = folder / stage.shard
        try:
            if file_sha256(path) != stage.sha256:
                found.append(stage)
        except FileNotFoundError:
            found.append(stage)
        except OSError as error:
            what = f"the shard of {rank_name(plan, rank)}"
            raise NamedRankError(f"{path}: {what} cannot be read: {error.strerror}") from None
    return found
