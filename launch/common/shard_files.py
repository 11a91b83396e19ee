"""Checks that a plan's files exist and have the recorded sha256."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import Plan, Stage
from edgelaunch.common.failures import NamedRankError, rank_name

__all__ = ["StageFile", "check_file", "check_rank", "check_stage_file", "files_of", "lacking", "stages_of"]


@dataclass(frozen=True, kw_only=True)
class StageFile:
    """A file that a rank loads: a shard, or weights that stand beside it."""

    name: str
    """Its path below the plan's folder."""
    sha256: str
    rank: int

    def what(self, plan: Plan) -> str:
        kind = "a weights file" if self.name.endswith(".safetensors") else "the shard"
        return f"{kind} of {rank_name(plan, self.rank)}"


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


def check_stage_file(plan: Plan, file: StageFile, folder: Path) -> None:
    """Raises UserError, naming file and rank, where the file's bytes are not those that the plan was written with."""
    fix = "copy it again from where the plan was compiled"
    try:
        check_file(folder / file.name, file.sha256, file.what(plan), fix)
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


def files_of(plan: Plan, rank: int) -> list[StageFile]:
    """All files that a rank may load, each once: those of its own stage first."""
    named = dict.fromkeys(file for stage in stages_of(plan, rank) for file in stage.files)
    return [StageFile(name=name, sha256=sha256, rank=rank) for name, sha256 in named]


def check_rank(plan: Plan, rank: int, folder: Path) -> None:
    """Checks all files that a rank may need.

    Raises:
        UserError: as check_stage_file does.
    """
    for file in files_of(plan, rank):
        check_stage_file(plan, file, folder)


def lacking(plan: Plan, rank: int, folder: Path) -> list[StageFile]:
    """Those that are not in the plan's folder, or have other bytes than the plan says.

    Raises:
        UserError: one is there and cannot be read.
    """
    found = []
    for file in files_of(plan, rank):
        path = folder / file.name
        try:
            if file_sha256(path) != file.sha256:
                found.append(file)
        except FileNotFoundError:
            found.append(file)
        except OSError as error:
            raise NamedRankError(f"{path}: {file.what(plan)} cannot be read: {error.strerror}") from None
    return found
