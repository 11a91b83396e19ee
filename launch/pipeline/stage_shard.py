"""Loads one stage's shard and runs it on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Stage
from edgecompile.execution.allocator import large_blocks_apart
from edgelaunch.pipeline.pt2 import unreadable_pt2
from edgelaunch.process.limits import local_shortage

if TYPE_CHECKING:
    import torch

__all__ = [
    "load_shard",
    "load_shard_soon",
    "run_shard",
]


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

    from edgecompile.execution.opened_shard import open_stage
    from edgecompile.execution.prepack import pays_here

    path = folder / stage.shard
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"stage {stage.stage} is planned for cuda and torch {torch.__version__} finds no GPU here: "
            "install a torch with CUDA, or compile with execution: cpu for this device"
        )
    try:
        opened = open_stage(stage, folder, device)
    except UserError:
        raise
    except Exception as error:
        if (shortage := local_shortage(error)) is not None:
            raise UserError(f"{path}: {shortage}") from None
        if stage.artifact == "pt2":  # of many kinds: the schema, a missing record, an operator that this torch lacks
            raise unreadable_pt2(path, error) from None
        if not isinstance(error, RuntimeError):
            raise
        first = (str(error).strip().splitlines() or ["?"])[0]
        fix = ": compile with runtime.import=[MODULE], which registers it" if "Unknown builtin op" in first else ""
        raise UserError(f"{path}: torch {torch.__version__} cannot load this shard: {first.rstrip('.')}{fix}") from None
    return opened.run, opened.prepacked if device == "cpu" and pays_here(prepack, stage.precision) else None


def run_shard(
    module: Callable[..., Any],
    stage: Stage,
    inputs: Sequence[torch.Tensor],
    device: str,
    sizes: Mapping[str, int] | None = None,
) -> Sequence[torch.Tensor]:
    """One microbatch through one stage.

    Args:
        sizes: the message's, by the name of each dimension that varies.

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
        shape = spec.shape_at(sizes) if sizes else spec.shape
        assert tensor.shape == shape, f"stage {stage.stage} gave {spec.name} as {tuple(tensor.shape)}, not {shape}"
    return outputs
