"""Runs the golden items through the chained shards and checks that the results equal the model's.

Strictly but for what lossy wire formats are allowed to lose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from edgecompile.artifacts.compiled_stage import CompiledPipeline, StageDesign
from edgecompile.artifacts.shards import stage_module
from edgecompile.artifacts.wire_loss import is_coded, is_lossy, lossy_note, too_lossy, wire_losses, worst_tensor
from edgecompile.contract.errors import UserError
from edgecompile.execution.attention import kept_in_bf16
from edgecompile.execution.closeness import SLACK, difference, scale_of
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.eager import groups_of
from edgecompile.frontend.golden.golden_items import Reference
from edgecompile.frontend.golden.independence import ItemsMixed
from edgecompile.frontend.golden.other_sizes import SizedItems, differs

__all__ = ["Equality", "Flow", "check_other_sizes", "check_shards"]

Stage = Callable[..., Sequence[torch.Tensor]]

_ROUNDING, _LOSSY_ROUNDING = 1e-4, 0.05
"""Of the largest value: what the same item's results may differ by at another place or in another run."""


@dataclass(frozen=True, kw_only=True)
class Equality:
    """How the shards compare with the model on the golden items; one entry an output."""

    errors: tuple[float, ...]
    """The shards' largest absolute error to the float64 model."""
    tolerance: tuple[float, ...]
    """The largest absolute difference to the eager outputs that a run of the pipeline may show."""
    outputs: tuple[torch.Tensor, ...]
    """What a run must reproduce: the eager outputs; where the wire is lossy, integers and bools of the shards."""
    notes: tuple[str, ...] = ()
    """What the plan should say of it."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """All golden items at one boundary, in microbatches, as they travel there."""

    batches: tuple[tuple[torch.Tensor, ...], ...]
    rows: tuple[int, ...]
    """The item of each row of all microbatches; some are there again, at another place."""
    lossy: bool
    others: tuple[tuple[torch.Tensor, ...], ...] = ()
    """Messages of other sizes."""
    in_bf16: bool = False
    """Whether keys and values of attention are rounded, as ranks keep them."""

    @classmethod
    def of(
        cls, reference: Reference, microbatch: int, lossy: bool, others: Sequence[SizedItems] = (), *,
        in_bf16: bool = False,
    ) -> Flow:  # fmt: skip
        """At the model's inputs. `lossy`: whether something on the way loses precision."""
        count = len(reference.inputs[0])
        groups = [*groups_of(count, microbatch), *_exchanged(count, microbatch)]
        batches = tuple(tuple(value[group] for value in reference.inputs) for group in groups)
        rows = tuple(row for group in groups for row in group)
        return cls(batches=batches, rows=rows, lossy=lossy, others=tuple(item.inputs for item in others),
                   in_bf16=in_bf16)  # fmt: skip

    def through(self, stage: Stage, what: str) -> Flow:
        """After this stage, which at last runs on its first microbatch again: a run must leave nothing to the next.

        Raises:
            UserError: `what`, such as stage 1 of 3, gives another result when it runs again.
        """
        with torch.no_grad(), kept_in_bf16(on=self.in_bf16):
            first = tuple(part.clone() for part in self.batches[0])
            batches = tuple(tuple(part.contiguous() for part in stage(*batch)) for batch in self.batches)
            pairs = list(zip(batches[0], stage(*first), strict=True))
            others = tuple(tuple(part.contiguous() for part in stage(*batch)) for batch in self.others)
        if not all(_alike(before, after, self.lossy) for before, after in pairs):
            raise UserError(
                f"the model keeps state between calls: {what} gives another result when it runs on the same "
                "microbatch again"
            )
        return replace(self, batches=batches, others=others)

    def outputs(self) -> tuple[torch.Tensor, ...]:
        """Each output for every golden item, after the last stage.

        Raises:
            UserError: an item's result depends on its place or its neighbours.
        """
        outputs = [torch.cat(parts) for parts in zip(*self.batches, strict=True)]
        places = [self.rows.index(item) for item in range(max(self.rows) + 1)]
        for output in outputs:
            for place, row in enumerate(self.rows if not self.lossy else ()):
                if not _alike(output[places[row]], output[place], self.lossy):
                    raise ItemsMixed(
                        f"the items of a microbatch influence each other: a result of item {row} differs at another "
                        "place of the microbatch, among other items"
                    )
        return tuple(output[places] for output in outputs)


def check_other_sizes(
    chain: Chain, pipeline: CompiledPipeline, others: Sequence[SizedItems], equality: Equality
) -> None:
    """Compares what the shards made of messages of other sizes with the eager model, as strictly as golden items.

    Where the wire is lossy, whole numbers and bools are left out: a close decision may turn.

    Raises:
        AssertionError: a shard holds for the largest sizes alone.
    """
    lossy = is_lossy(chain, pipeline.stages)
    for given, wanted in zip(pipeline.others, others, strict=True):
        outputs = wanted.outputs
        if lossy:
            pairs = zip(given, outputs, strict=True)
            outputs = tuple(own if own.is_floating_point() else shards for shards, own in pairs)
        wrong = differs(given, outputs, [SLACK * value for value in equality.tolerance])
        assert wrong is None, f"output {wrong} of the shards differs from the model's at {wanted.sizes}"


def check_shards(
    chain: Chain,
    stages: Sequence[StageDesign],
    got: Sequence[torch.Tensor],
    reference: Reference,
    microbatch: int,
    max_error: float = math.inf,
) -> Equality:
    """Compares what the shards made of the golden items with the model in float64.

    Where something is encoded, the stages are compared strictly without that, and what it loses is the tolerance.

    Args:
        got: Flow.outputs after the last shard.
        max_error: how much the formats may lose, relative to each output's largest value.

    Raises:
        UserError: an output is farther from the float64 model than the eager model is, by over twice; or the formats
            lose more than `max_error`: names the output, and the cut and the tensor that lose most.
    """
    lossy = is_lossy(chain, stages)
    strict = got
    if lossy:
        flow = Flow.of(reference, microbatch, lossy=False)
        for number, stage in enumerate(stages):
            flow = flow.through(stage_module(chain, stage.placed.first, stage.placed.last), f"stage {number + 1}")
        strict = flow.outputs()
    for index, name in enumerate(chain.captured.output_names):
        error, allowed = difference(strict[index], reference.exact[index]), reference.allowed[index]
        if not error <= allowed:
            raise UserError(
                f"the shards compute another {name!r} than the model: {error:.3g} from the model in float64, where "
                f"{allowed:.3g} is allowed: something in forward() escapes the trace, such as x.data = y or Python's "
                "own random numbers; if nothing does, this is a bug of edgecompile: please report it"
            )
    errors = tuple(difference(value, exact) for value, exact in zip(got, reference.exact, strict=True))
    if not lossy:
        return Equality(errors=errors, tolerance=reference.tolerance, outputs=reference.outputs)
    found = wire_losses(chain.captured.output_names, got, reference)
    worst = max(found, key=lambda loss: loss.relative)
    coded = is_coded(chain, stages)
    if coded and not worst.relative <= max_error:
        raise too_lossy(worst, max_error, worst_tensor(chain, stages, reference, microbatch, worst.output))
    pairs = list(zip(got, reference.outputs, strict=True))
    outputs = tuple(eager if eager.is_floating_point() else value for value, eager in pairs)
    # no output is expected to be more exact than the formats are, however lucky the golden items were
    rounding = max(stage.incoming.rounding for stage in stages)
    tolerance = tuple(
        max(_beyond(value.numel()) * loss.absolute, rounding * scale) + own
        for loss, own, value, scale in zip(found, reference.tolerance, got, reference.scale, strict=True)
    )
    return Equality(errors=errors, tolerance=tolerance, outputs=outputs, notes=(lossy_note(found),) if coded else ())


def _beyond(num_values: int) -> float:
    """How much larger than the largest of so many errors those of other items may be.

    The largest of n normal values is about sqrt(2 ln n) deviations from their mean, and five are hardly ever passed.
    """
    return max(1.01, 5 / math.sqrt(2 * math.log(max(num_values, 2))))


def _exchanged(count: int, microbatch: int) -> list[list[int]]:
    """Where all items fit one microbatch: a second one, in which each has another place."""
    return [[(place + 1) % count for place in range(microbatch)]] if microbatch >= count else []


def _alike(one: torch.Tensor, other: torch.Tensor, lossy: bool) -> bool:
    """Equal but for rounding; a code of a lossy format may round to its neighbour."""
    if not one.is_floating_point():
        return lossy or torch.equal(one, other)
    bound = (_LOSSY_ROUNDING if lossy else _ROUNDING) * scale_of(one)
    return difference(other, one) <= max(bound, 16 * torch.finfo(one.dtype).eps * scale_of(one))
