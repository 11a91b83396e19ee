"""Checks and loads one stage's shard, and runs it on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.contract.atomic_files import file_sha256
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan, Stage, TensorSpec
from edgelaunch.common.allocator import large_blocks_apart
from edgelaunch.common.failures import rank_name
from edgelaunch.common.limits import local_shortage
from edgelaunch.pipeline.pt2 import load_exported

if TYPE_CHECKING:
    import torch

__all__ = [
    "check_file",
    "check_rank",
    "check_shard",
    "lacking",
    "load_shard",
    "load_shard_soon",
    "run_shard",
    "stages_of",
]


def check_file(path: Path, sha256: str, what: str, fix: str) -> None:
    """Compares a file of the plan with the hash that the plan has of it.

    Raises:
        UserError: the file is missing, cannot be read, or has other bytes.
    """
    try:
        found = file_sha256(path)
    except FileNotFoundError:
        raise UserError(f"{path}: {what} is missing: {fix}") from None
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be read: {error.strerror}") from None
    if found != sha256:
        raise UserError(f"{path}: {what} is damaged or of another plan (sha256 {found[:12]}, not {sha256[:12]}): {fix}")


def check_shard(plan: Plan, stage: Stage, folder: Path) -> None:
    """Raises UserError, naming file and rank, where the shard's bytes are not those that the plan was written with."""
    what = f"the shard of {rank_name(plan, stage.rank)}"
    check_file(folder / stage.shard, stage.sha256, what, "copy it again from where the plan was compiled")


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
            raise UserError(f"{path}: the shard of {rank_name(plan, rank)} cannot be read: {error.strerror}") from None
    return found


def load_shard(stage: Stage, folder: Path, device: str, prepack: str = "auto") -> Callable[..., Any]:
    """The stage as a callable from tensors to a tuple of tensors. Its bytes have been checked.

    Args:
        prepack: the plan's `runtime.prepack`.

    Raises:
        UserError: torch cannot read the file, or the device is not there.
    """
    plain, pack = _load(stage, folder, device, prepack)
    return plain if pack is None else pack()


def load_shard_soon(stage: Stage, folder: Path, device: str, prepack: str) -> Callable[..., Any]:
    """As load_shard, but weights are prepacked after the first microbatch, whose result need not wait for that."""
    plain, pack = _load(stage, folder, device, prepack)
    return plain if pack is None else _PackedAfterFirst(plain, pack)


class _PackedAfterFirst:
    def __init__(self, plain: Callable[..., Any], pack: Callable[[], Callable[..., Any]]) -> None:
        self._run, self._pack = plain, pack
        self._num_runs = 0

    def __call__(self, *inputs: torch.Tensor) -> Any:
        if self._num_runs == 1:
            with large_blocks_apart():
                self._run = self._pack()
            del self._pack
        self._num_runs = min(2, self._num_runs + 1)
        return self._run(*inputs)


def _load(
    stage: Stage, folder: Path, device: str, prepack: str
) -> tuple[Callable[..., Any], Callable[[], Callable[..., Any]] | None]:
    """The shard with its weights as they are, and what prepacks them, where that pays; the former is of no use then."""
    import torch

    from edgecompile.execution import torchscript
    from edgecompile.execution.prepack import ROWS_RECORD, pays_here, prepack_exported, prepack_traced, rows_in

    path = folder / stage.shard
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"stage {stage.stage} is planned for cuda and torch {torch.__version__} finds no GPU here: "
            "install a torch with CUDA, or compile with execution: cpu for this device"
        )
    packs = device == "cpu" and pays_here(prepack)
    if stage.artifact == "pt2":
        module = load_exported(path).to(device)
        return module, (lambda: prepack_exported(module)) if packs else None
    try:
        extra = {ROWS_RECORD: ""}
        traced = torchscript.load(str(path), device, extra)
        rows = rows_in(extra[ROWS_RECORD])
        return traced, (lambda: prepack_traced(traced, rows, consume=True)) if packs else None
    except RuntimeError as error:
        if (shortage := local_shortage(error)) is not None:
            raise UserError(f"{path}: {shortage}") from None
        first = (str(error).strip().splitlines() or ["?"])[0]
        fix = ": compile with runtime.import=[MODULE], which registers it" if "Unknown builtin op" in first else ""
        raise UserError(f"{path}: torch {torch.__version__} cannot load this shard: {first.rstrip('.')}{fix}") from None


def run_shard(
    module: Callable[..., Any], stage: Stage, inputs: Sequence[torch.Tensor], device: str
) -> Sequence[torch.Tensor]:
    """One microbatch through one stage.

    Raises:
        AssertionError: the shard's outputs are not those that the plan names.
    """
    if device != "cpu":
        inputs = [tensor.to(device, non_blocking=True) for tensor in inputs]
    result = module(*inputs)
    outputs: Sequence[torch.Tensor] = result if isinstance(result, (tuple, list)) else (result,)
    assert len(outputs) == len(stage.outputs), (
        f"stage {stage.stage} gave {len(outputs)} tensors, not {len(stage.outputs)}"
    )
    for tensor, spec in zip(outputs, stage.outputs, strict=True):
        assert tensor.shape == spec.shape, _misfit(stage, spec, tensor)
    return outputs


def _misfit(stage: Stage, spec: TensorSpec, tensor: torch.Tensor) -> str:
    return f"stage {stage.stage} gave {spec.name} as {tuple(tensor.shape)}, the plan says {spec.shape}"
