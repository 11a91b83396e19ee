"""Measures the error that lossy wire formats cause, checks it against the limit, and names its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecompile.artifacts.compiled_stage import StageDesign
from edgecompile.artifacts.shards import stage_module
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.execution.closeness import difference
from edgecompile.frontend.chain.kept_state import keeps_bf16
from edgecompile.frontend.chain.units import BoundaryTensor, Chain
from edgecompile.frontend.golden.eager import groups_of
from edgecompile.frontend.golden.golden_items import Reference
from edgecompile.wire.codec import decode_tensor, encode_tensor
from edgecompile.wire.formats import WireFormat, is_encoded, items_first

__all__ = ["Loss", "is_coded", "is_lossy", "lossy_note", "too_lossy", "wire_losses", "worst_tensor"]

Values = list[tuple[torch.Tensor, ...]]
"""The tensors of a boundary for each microbatch of golden items."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How far one output is from the eager model's on the golden items."""

    output: int
    name: str
    absolute: float
    """The largest difference; 0 where the output is not a float."""
    relative: float
    """Of a float output: relative to its largest value. Of any other: the share of values that are not the same."""
    is_float: bool


@dataclass(frozen=True, kw_only=True)
class _Culprit:
    cut: int
    """The unit before which it is."""
    op: str
    tensor: str
    wire: str
    relative: float
    """The loss of the output, were this tensor alone encoded."""


def is_lossy(chain: Chain, stages: Sequence[StageDesign]) -> bool:
    """Whether anything is encoded at the cuts, kept in bf16, or computed in another precision."""
    lower = any(stage.precision is not Precision.FP32 for stage in stages)
    return lower or keeps_bf16(chain) or is_coded(chain, stages)


def is_coded(chain: Chain, stages: Sequence[StageDesign]) -> bool:
    """Whether anything is encoded at the cuts."""
    return any(
        is_encoded(tensor, stage.incoming)
        for stage in stages
        for tensor in chain.boundaries[stage.placed.first].tensors
    )


def wire_losses(names: Sequence[str], got: Sequence[torch.Tensor], reference: Reference) -> list[Loss]:
    """One entry an output."""
    triples = zip(names, got, reference.outputs, reference.scale, strict=True)
    return [_loss(index, name, value, eager, scale) for index, (name, value, eager, scale) in enumerate(triples)]


def _loss(index: int, name: str, value: torch.Tensor, eager: torch.Tensor, scale: float) -> Loss:
    if not eager.is_floating_point():
        share = float((value != eager).double().mean()) if eager.numel() else 0.0
        return Loss(output=index, name=name, absolute=0.0, relative=share, is_float=False)
    absolute = difference(value, eager)
    relative = absolute / scale if scale else math.inf if absolute else 0.0
    return Loss(output=index, name=name, absolute=absolute, relative=relative, is_float=True)


def lossy_note(losses: Sequence[Loss]) -> str:
    """A line for the plan."""
    return f"lossy wire formats: on the golden items {'; '.join(_in_words(loss) for loss in losses)}"


def _in_words(loss: Loss) -> str:
    if loss.is_float:
        return f"{loss.name} is within {loss.relative:.2%} of its largest value"
    return f"{loss.relative:.1%} of {loss.name} differ from the eager model's"


def too_lossy(loss: Loss, max_error: float, culprit: _Culprit | None) -> UserError:
    """The refusal of a plan whose results are worth too little."""
    finer = "wire=fp16" if culprit is not None and culprit.wire.startswith("int8") else "wire=int8, wire=fp16"
    measured = f"{loss.relative:.3g} of its largest value" if loss.is_float else f"{loss.relative:.3g} of its values"
    where = ""
    if culprit is not None:
        where = (
            f"; most is lost at the cut before unit {culprit.cut} ({culprit.op}), where {culprit.tensor} travels as "
            f"{culprit.wire} (alone: {culprit.relative:.3g})"
        )
    return UserError(
        f"wire.max_error: the output {loss.name} differs from the eager model's by {measured}, more than the limit of "
        f"{max_error:g}{where}: choose a format of more bits ({finer}), cut elsewhere, or allow more"
    )


def worst_tensor(
    chain: Chain,
    designs: Sequence[StageDesign],
    reference: Reference,
    microbatch: int,
    output: int,
) -> _Culprit | None:
    """Which tensor at which cut costs this output most, each encoded alone. Runs the stages once for each of them."""
    stages = [stage_module(chain, design.placed.first, design.placed.last) for design in designs]
    count = len(reference.inputs[0])
    values: Values = [tuple(value[group] for value in reference.inputs) for group in groups_of(count, microbatch)]
    worst: _Culprit | None = None
    for number, design in enumerate(designs):
        wire, first = design.incoming, design.placed.first
        for place, tensor in enumerate(chain.boundaries[first].tensors):
            if not number or not is_encoded(tensor, wire):
                continue
            results = _through(stages[number:], [_lossy(value, place, tensor, wire) for value in values])
            got = torch.cat([value[output] for value in results])[:count]
            eager, scale = reference.outputs[output], reference.scale[output]
            loss = _loss(output, "", got, eager, scale)
            if worst is None or not loss.relative <= worst.relative:
                worst = _Culprit(cut=first, op=chain.units[first].op, tensor=tensor.name,
                                 wire=wire.name, relative=loss.relative)  # fmt: skip
        values = _through(stages[number : number + 1], values)
    return worst


def _lossy(
    values: tuple[torch.Tensor, ...], place: int, tensor: BoundaryTensor, wire: WireFormat
) -> tuple[torch.Tensor, ...]:
    axis, shape = tensor.item_axis or 0, items_first(tensor)
    parts = [part.contiguous() for part in encode_tensor(values[place].movedim(axis, 0), shape, wire)]
    return (*values[:place], decode_tensor(parts, shape, wire).movedim(0, axis), *values[place + 1 :])


def _through(stages: Sequence[fx.GraphModule], values: Values) -> Values:
    with torch.no_grad():
        for stage in stages:
            values = [tuple(part.contiguous() for part in stage(*batch)) for batch in values]
    return values
