"""Holds what the precision of the stages costs on the golden items to the budget, and names what costs most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch

from edgecompile.artifacts.compiled_stage import CompiledPipeline, StageDesign, StageWriter
from edgecompile.artifacts.lowering import Lowering, left_alone
from edgecompile.artifacts.shards import stage_module
from edgecompile.config.request import CompileRequest
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Accuracy
from edgecompile.frontend.chain.products import lowered_units
from edgecompile.frontend.golden.eager import groups_of
from edgecompile.frontend.golden.golden_items import Reference

__all__ = ["Precise", "check_precision", "squared_error"]

_MOST_NAMED = 3
_MOST_TRIED = 64
"""Products whose own cost is looked for, where the budget is broken."""


def squared_error(value: torch.Tensor, true: torch.Tensor) -> float:
    """Of one output, over the squares of what is right; both have the items as their first dimension."""
    finite = true.isfinite()
    if not value.is_floating_point() or not bool(finite.any()):
        return 0.0
    wrong, right = (value.double() - true.double())[finite], true.double()[finite]
    if not bool(wrong.isfinite().all()):
        return float("inf")
    whole = float(right.square().sum())
    return float(wrong.square().sum()) / whole if whole else float(wrong.abs().max() > 0)


def _agreement(value: torch.Tensor, true: torch.Tensor) -> float | None:
    """None where an item has one float, or several rows of them, so that its largest says nothing."""
    if not value.is_floating_point():
        return float((value == true).double().mean()) if value.numel() else None
    if value.dim() != 2 or value.shape[1] < 2:
        return None
    return float((value.argmax(1) == true.argmax(1)).double().mean())


@dataclass(frozen=True, kw_only=True)
class Precise:
    """The result of the check, for the plan."""

    accuracy: Accuracy | None = None
    """None: all are in float32."""
    notes: tuple[str, ...] = ()


def check_precision(
    writer: StageWriter, pipelines: Sequence[CompiledPipeline], reference: Reference, request: CompileRequest
) -> Precise:
    """Holds what the shards made of the golden items to the budget.

    Args:
        pipelines: the plan's own, then those after the loss of a host; the largest errors of all count.

    Raises:
        UserError: an output is farther from the model in float64 than the budget allows, and than twice the eager
            model's own error; names the products that cost most, and what is left without them.
    """
    budget = request.precision.budget
    lowered = [item for item in pipelines if any(stage.precision is not Precision.FP32 for stage in item.stages)]
    if not lowered:
        return Precise()
    found = [_within(writer, item, reference, budget) for item in lowered]
    error = {name: max(item.error[name] for item in found) for name in found[0].error}
    agreement = {name: min(item.agreement[name] for item in found) for name in found[0].agreement}
    accuracy = Accuracy(budget=budget, error=error, agreement=agreement)
    return Precise(accuracy=accuracy, notes=tuple(_notes(writer, accuracy)))


def _within(writer: StageWriter, pipeline: CompiledPipeline, reference: Reference, budget: float) -> Accuracy:
    names = writer.chain.captured.output_names
    triples = list(zip(names, pipeline.outputs, reference.exact, strict=True))
    found = {name: squared_error(value, true) for name, value, true in triples if value.is_floating_point()}
    own = {name: squared_error(value, true)
           for name, value, true in zip(names, reference.outputs, reference.exact, strict=True)}  # fmt: skip
    beyond = {name: error for name, error in found.items() if not error <= max(budget, 2 * own[name])}
    worst = max(beyond, key=lambda name: beyond[name], default="")
    if worst:
        designs = pipeline.stages
        precisions = "/".join(sorted({design.precision.value for design in designs} - {"fp32"}))
        raise UserError(
            f"{precisions} makes an error of {found[worst]:.3g} in {worst} (squares, relative to the model in float64, "
            f"on the golden items), more than {budget:g}{_culprits(writer, designs, reference, names.index(worst))}",
            key="accuracy.budget",
            fix="keep the named modules in fp32 (precision.keep), take a precision of more bits, or allow more",
        )
    agreed = {name: _agreement(value, true) for name, value, true in triples}
    agreement = {name: share for name, share in agreed.items() if share is not None}
    least = writer.agreement
    worst = min(agreement, key=lambda name: agreement[name], default="")
    if least is not None and worst and agreement[worst] < least:
        raise UserError(
            f"{agreement[worst]:.1%} of {worst} agree with the model on the golden items, less than {least:.1%}",
            key="accuracy.agreement",
            fix="keep modules in fp32 (precision.keep), take a precision of more bits, or ask for less",
        )
    return Accuracy(budget=budget, error=found, agreement=agreement)


def _culprits(writer: StageWriter, designs: Sequence[StageDesign], reference: Reference, output: int) -> str:
    """The modules whose products cost most, each alone in its precision, and what all of them cost together.

    The squares of independent errors add up: what is left without some is about the sum of the others.
    """
    costs: dict[str, float] = {}
    modules = {
        unit.module: design.precision
        for design in designs
        for unit in writer.chain.units[design.placed.first : design.placed.last + 1]
        if unit.kind in ("linear", "addmm", "mm", "matmul") and unit.module and design.precision is not Precision.FP32
    }
    size, true = writer.chain.boundaries[0].tensors[0].shape[0], reference.exact[output]
    groups = groups_of(len(true), size)
    for name in list(modules)[:_MOST_TRIED]:
        others = tuple(other for other in modules if other != name and not name.startswith(f"{other}."))
        lowering = Lowering(precision=modules[name], weights=writer.low, keep=(*writer.keep, *others))
        whole = lowering.applied(stage_module(writer.chain, 0, len(writer.chain.units) - 1))
        with torch.no_grad():
            results = [whole(*(value[group] for value in reference.inputs))[output] for group in groups]
        costs[name] = squared_error(torch.cat(results)[: len(true)], true)
    if not costs:
        return ""
    first = sorted(costs, key=lambda name: -costs[name])[:_MOST_NAMED]
    rest = sum(costs[name] for name in costs if name not in first)
    named = ", ".join(f"{name} ({costs[name]:.2g})" for name in first)
    return f"; most is lost in {named}" + (f", without which about {rest:.2g} would be left" if rest < inf else "")


def _notes(writer: StageWriter, accuracy: Accuracy) -> list[str]:
    """Lines for the plan: what the precision has cost, and what was left in float32."""
    errors = ", ".join(f"{name} {error:.2g}" for name, error in accuracy.error.items())
    shares = ", ".join(f"{share:.1%} of {name}" for name, share in accuracy.agreement.items())
    notes = []
    if errors:
        notes.append(
            f"precision: squared error on the golden items, relative to the model in float64: {errors} "
            f"(budget {accuracy.budget:g})"
        )
    if shares:
        notes.append(f"precision: {shares} agree with the model on the golden items")
    if not lowered_units(writer.chain, writer.keep):
        notes.append("precision: no product could be lowered: none has weights that are float32 tensors as they are")
    left = left_alone(stage_module(writer.chain, 0, len(writer.chain.units) - 1), writer.keep)
    if left:
        words = ", ".join(f"{count} {what if count == 1 else several}" for (what, several), count in left.items())
        notes.append(f"precision: left in fp32: {words}")
    return notes
