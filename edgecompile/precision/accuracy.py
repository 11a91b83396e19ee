"""Holds what the precision of the stages costs to the budget, and names what costs most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from edgecompile.artifacts.compiled_stage import CompiledPipeline, StageDesign, StageWriter
from edgecompile.artifacts.lowering import left_alone
from edgecompile.artifacts.shards import stage_module
from edgecompile.artifacts.wire_loss import is_coded
from edgecompile.config.cluster_spec import Cluster
from edgecompile.config.request import PrecisionRequest
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Accuracy, ItemsAccuracy
from edgecompile.execution.low_precision import fast_here
from edgecompile.execution.prepack import pays_here
from edgecompile.frontend.chain.products import lowered_by
from edgecompile.frontend.chain.units import Chain
from edgecompile.precision.sensitivity import Span, beyond_budget, module_errors, run_spans, within_budget
from edgecompile.precision.trial import FEW_ITEMS, Run, Score, Trial, chained

__all__ = ["Precise", "check_kernels", "check_precision", "nothing_lowered"]

_MOST_NAMED = 3
_MOST_TRIED = 64
"""Products whose own cost is looked for, where the budget is broken."""
_MOST_WORSE = 2.0
"""What the kernels of this machine may make of an error that is beyond the budget with wire formats alone."""


@dataclass(frozen=True, kw_only=True)
class Precise:
    """The result of the check, for the plan."""

    accuracy: Accuracy | None = None
    """None: all are in float32."""
    notes: tuple[str, ...] = ()


def check_precision(
    writer: StageWriter,
    pipelines: Sequence[CompiledPipeline],
    golden: Trial,
    items: Trial | None,
    request: PrecisionRequest,
) -> Precise:
    """Holds what the shards make of the golden items to the budget, or what they make of the user's own where given.

    Args:
        pipelines: the plan's own, then those after the loss of a host, at least one with a stage in another precision;
            the largest errors of all count.

    Raises:
        UserError: an output is farther from the model than the budget allows, and than twice the eager model's own
            error; names the products that cost most, and what is left without them.
    """
    lowered = [item for item in pipelines if any(stage.precision is not Precision.FP32 for stage in item.stages)]
    lowest = next(stage.precision for stage in lowered[0].stages if stage.precision is not Precision.FP32)
    scores = [_golden_score(writer, pipeline, golden) for pipeline in lowered]
    if items is None:
        for pipeline, score in zip(lowered, scores, strict=True):
            _hold(writer, pipeline.stages, golden, score, request)
        accuracy = _worst(scores, request.budget)
        return Precise(accuracy=accuracy, notes=tuple(_notes(writer, accuracy, lowest)))
    found = []
    for pipeline in lowered:
        found.append(items.score(items.run(_without_wires(writer, pipeline) or _run(writer, pipeline))))
        _hold(writer, pipeline.stages, items, found[-1], request)
    worst, right = _worst(found, request.budget), [score.right for score in found if score.right is not None]
    accuracy = _worst(scores, request.budget, ItemsAccuracy(
        items=items.what,
        error=worst.error,
        agreement=worst.agreement,
        right=min(right) if right else None,
        model_right=items.score(items.true).right,
    ))  # fmt: skip
    return Precise(accuracy=accuracy, notes=tuple(_notes(writer, accuracy, lowest, neighbours=items.neighbours)))


def _without_wires(writer: StageWriter, pipeline: CompiledPipeline) -> Run | None:
    """The stages without their wire formats, which have a limit of their own; None: nothing is encoded."""
    if not is_coded(writer.chain, pipeline.stages):
        return None
    return run_spans(writer.chain, _spans(pipeline.stages), writer.low, writer.keep)


def _spans(designs: Sequence[StageDesign]) -> list[Span]:
    return [Span(first=item.placed.first, last=item.placed.last, precision=item.precision) for item in designs]


def _golden_score(writer: StageWriter, pipeline: CompiledPipeline, golden: Trial) -> Score:
    """Of the outputs that the shards were compared by already."""
    run = _without_wires(writer, pipeline)
    if run is not None:
        return golden.score(golden.run(run))
    sizes, start, given = golden.counts, 0, []
    for count in sizes:
        given.append(tuple(value[start : start + count] for value in pipeline.outputs))
        start += count
    return golden.score(given)


def check_kernels(
    writer: StageWriter, pipeline: CompiledPipeline, trial: Trial, request: PrecisionRequest, prepack: str
) -> None:
    """Runs the stages as a rank on this machine does, with the kernels that it has for their precisions.

    Args:
        prepack: `runtime.prepack`

    Raises:
        UserError: what they compute breaks the budget, which the shards as they are written keep.
    """
    packed = [pays_here(prepack, item.precision) and fast_here(item.precision) for item in pipeline.stages]
    if not any(packed):
        return
    score = trial.score(trial.run(_run(writer, pipeline, packed)))
    if within_budget(score, trial, request):
        return
    plain = trial.score(trial.run(_run(writer, pipeline)))  # with what wire formats cost, which the budget is not of
    if any(not error <= _MOST_WORSE * plain.error[name] for name, error in score.error.items()):
        errors = ", ".join(f"{name} {error:.3g}" for name, error in score.error.items())
        raise UserError(
            f"with the kernels that this machine has for it the error is beyond the budget ({errors} on {trial.what}), "
            "and without them it is not",
            key="accuracy.budget", fix="runtime.prepack=never leaves these kernels out; please report it",
        )  # fmt: skip


def _run(writer: StageWriter, pipeline: CompiledPipeline, packed: Sequence[bool] = ()) -> Run:
    marks = packed or [False] * len(pipeline.stages)
    stages = [writer.opened(stage.shard, packed=mark) for stage, mark in zip(pipeline.stages, marks, strict=True)]
    return chained(stages)


def _worst(scores: Sequence[Score], budget: float, items: ItemsAccuracy | None = None) -> Accuracy:
    return Accuracy(
        budget=budget,
        error={name: max(score.error[name] for score in scores) for name in scores[0].error},
        agreement={name: min(score.agreement[name] for score in scores) for name in scores[0].agreement},
        items=items,
    )


def _hold(
    writer: StageWriter, designs: Sequence[StageDesign], trial: Trial, score: Score, request: PrecisionRequest
) -> None:
    """Raises UserError where the score breaks the budget, or fewer agree than was asked for."""
    if within_budget(score, trial, request):
        return
    budget, least = request.budget, request.agreement
    beyond = beyond_budget(score, trial, budget)
    if beyond:
        worst = max(beyond, key=lambda name: beyond[name])
        precisions = "/".join(sorted({design.precision.value for design in designs} - {"fp32"}))
        reference = "the model in float64" if trial.floor else "the model"
        raise UserError(
            f"{precisions} makes an error of {beyond[worst]:.3g} in {worst} (squares, relative to {reference}, "
            f"on {trial.what}), more than {budget:g}{_culprits(writer, designs, trial, worst)}",
            key="accuracy.budget",
            fix="keep the named modules in fp32 (precision.keep), take a precision of more bits, or allow more",
        )
    assert least is not None
    worst = min(score.agreement, key=lambda name: score.agreement[name])
    raise UserError(
        f"{score.agreement[worst]:.1%} of {worst} agree with the model on {trial.what}, less than {least:.1%}",
        key="accuracy.agreement",
        fix="keep modules in fp32 (precision.keep), take a precision of more bits, or ask for less",
    )


def _culprits(writer: StageWriter, designs: Sequence[StageDesign], trial: Trial, output: str) -> str:
    """The modules whose products cost most, each alone in its precision, and what all of them cost together.

    The squares of independent errors add up: what is left without some is about the sum of the others.
    """
    costs = module_errors(
        writer.chain, _spans(designs), trial.first(FEW_ITEMS), writer.low, writer.keep, output=output, most=_MOST_TRIED
    )
    if not costs:
        return ""
    first = sorted(costs, key=lambda name: -costs[name])[:_MOST_NAMED]
    rest = sum(costs[name] for name in costs if name not in first)
    named = ", ".join(f"{name} ({costs[name]:.2g})" for name in first)
    return f"; most is lost in {named}" + (f", without which about {rest:.2g} would be left" if rest < inf else "")


def _notes(
    writer: StageWriter, accuracy: Accuracy, precision: Precision, *, neighbours: bool = False
) -> list[str]:  # fmt: skip
    """Lines for the plan: what the precision has cost, and what was left in float32."""
    notes = []
    own, budget = accuracy.items, f" (budget {accuracy.budget:g})"
    if own is not None:
        notes += _figures(own.error, own.agreement, own.items, "the model", budget, neighbours)
        if own.right is not None and own.model_right is not None:
            notes.append(f"precision: {own.right:.2%} of {own.items} get the right label, {own.model_right:.2%} "
                         "from the model")  # fmt: skip
    notes += _figures(
        accuracy.error, accuracy.agreement, "the golden items", "the model in float64", budget if own is None else ""
    )
    left = left_alone(stage_module(writer.chain, 0, len(writer.chain.units) - 1), writer.keep, precision)
    if left:
        words = ", ".join(f"{count} {what if count == 1 else several}" for (what, several), count in left.items())
        notes.append(f"precision: left in fp32: {words}")
    return notes


def nothing_lowered(chain: Chain, cluster: Cluster, keep: Sequence[str]) -> tuple[str, ...]:
    """For a plan in float32 whose devices were to compute in another precision."""
    if all(device.precision is Precision.FP32 for device in cluster.devices):
        return ()
    precisions = cluster.precisions
    if not any(lowered_by(chain, (), precisions).values()):
        return ("precision: no product could be lowered: none has weights that are float32 tensors as they are",)
    if not any(lowered_by(chain, keep, precisions).values()):
        return ("precision: all products are of kept modules: the plan is in fp32",)
    return ()


def _figures(
    error: dict[str, float],
    agreement: dict[str, float],
    items: str,
    reference: str,
    budget: str,
    neighbours: bool = False,
) -> list[str]:
    errors = ", ".join(f"{name} {value:.2g}" for name, value in error.items())
    shares = ", ".join(f"{share:.1%} of {name}" for name, share in agreement.items())
    told = [f"precision: squared error on {items}, relative to {reference}: {errors}{budget}"] if errors else []
    agree = "have the same nearest neighbour as with the model" if neighbours else "agree with the model"
    return [*told, *([f"precision: {shares} {agree} on {items}"] if shares else [])]
