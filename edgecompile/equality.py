"""Whether the shards, chained, equal the model: strictly but for what lossy wire formats are allowed to lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from edgecompile.eager import groups_of
from edgecompile.errors import UserError
from edgecompile.purity import scale_of
from edgecompile.reference import Reference
from edgecompile.schedule import Schedule
from edgecompile.shards import Shard, stage_module
from edgecompile.units import Chain
from edgecompile.wire import WireFormat
from edgecompile.wire_loss import difference, is_lossy, lossy_note, too_lossy, wire_losses, worst_tensor

__all__ = ["Equality", "check_shards"]

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


def check_shards(
    chain: Chain,
    schedule: Schedule,
    shards: Sequence[Shard],
    reference: Reference,
    microbatch: int,
    wires: Sequence[WireFormat],
    max_error: float = math.inf,
) -> Equality:
    """Runs the golden items through the shards, one loaded at a time, and compares with the model in float64.

    Where something is encoded, the stages are compared strictly without that, and what it loses is the tolerance.

    Args:
        wires: the format at both ends of each stage, one more than stages.
        max_error: how much the formats may lose, relative to each output's largest value.

    Raises:
        AssertionError: an output is farther from the float64 model than the eager model is, by over twice.
        UserError: a stage gives another result when it runs again, or the formats lose more than `max_error`; names the
            output, and the cut and the tensor that lose most.
    """
    lossy = is_lossy(chain, schedule, wires)
    got = _run([_loader(shard) for shard in shards], reference, microbatch, lossy)
    strict = got
    if lossy:
        strict = _run([_builder(chain, stage.first, stage.last) for stage in schedule.stages], reference, microbatch)
    for index, name in enumerate(chain.captured.output_names):
        error, allowed = difference(strict[index], reference.exact[index]), reference.allowed[index]
        assert error <= allowed, f"the shards' {name} is {error:.3g} from the float64 model, {allowed:.3g} is allowed"
    errors = tuple(difference(value, exact) for value, exact in zip(got, reference.exact, strict=True))
    if not lossy:
        return Equality(errors=errors, tolerance=reference.tolerance, outputs=reference.outputs)
    found = wire_losses(chain.captured.output_names, got, reference)
    worst = max(found, key=lambda loss: loss.relative)
    if not worst.relative <= max_error:
        raise too_lossy(worst, max_error, worst_tensor(chain, schedule, wires, reference, microbatch, worst.output))
    pairs = list(zip(got, reference.outputs, strict=True))
    outputs = tuple(eager if eager.is_floating_point() else value for value, eager in pairs)
    tolerance = tuple(1.01 * loss.absolute + own for loss, own in zip(found, reference.tolerance, strict=True))
    return Equality(errors=errors, tolerance=tolerance, outputs=outputs, notes=(lossy_note(found),))


def _loader(shard: Shard) -> Callable[[], Stage]:
    if shard.artifact == "pt2":
        return lambda: torch.export.load(shard.path).module()
    return lambda: torch.jit.load(str(shard.path), map_location="cpu")  # type: ignore[no-untyped-call]


def _builder(chain: Chain, first: int, last: int) -> Callable[[], Stage]:
    return lambda: stage_module(chain, first, last)


def _run(
    stages: Sequence[Callable[[], Stage]], reference: Reference, microbatch: int, lossy: bool = False
) -> tuple[torch.Tensor, ...]:
    """Each output for all golden items; a stage is built, run on every microbatch, and let go before the next.

    At last a stage runs on its first microbatch again: nothing that a run leaves behind may reach the next.
    """
    count = len(reference.inputs[0])
    groups = [*groups_of(count, microbatch), *_exchanged(count, microbatch)]
    rows = [row for group in groups for row in group]
    values = [tuple(value[group] for value in reference.inputs) for group in groups]
    for number, build in enumerate(stages):
        stage = build()
        with torch.no_grad():
            first = tuple(part.clone() for part in values[0])
            values = [tuple(part.contiguous() for part in stage(*batch)) for batch in values]
            pairs = list(zip(values[0], stage(*first), strict=True))
        if not all(_alike(before, after, lossy) for before, after in pairs):
            raise UserError(
                f"the model keeps state between calls: stage {number + 1} of {len(stages)} gives another result when "
                "it runs on the same microbatch again"
            )
    outputs = [torch.cat(parts) for parts in zip(*values, strict=True)]
    places = [rows.index(item) for item in range(count)]
    for output in outputs:
        whole = lossy or all(_alike(output[rows.index(row)], output[place], lossy) for place, row in enumerate(rows))
        assert whole, "a shard's result for an item depends on the item's place in its microbatch"
    return tuple(output[places] for output in outputs)


def _exchanged(count: int, microbatch: int) -> list[list[int]]:
    """Where all items fit one microbatch: a second one, in which each has another place."""
    return [[(place + 1) % count for place in range(microbatch)]] if microbatch >= count else []


def _alike(one: torch.Tensor, other: torch.Tensor, lossy: bool) -> bool:
    """Equal but for rounding; a code of a lossy format may round to its neighbour."""
    if not one.is_floating_point():
        return lossy or torch.equal(one, other)
    bound = (_LOSSY_ROUNDING if lossy else _ROUNDING) * scale_of(one)
    return difference(other, one) <= max(bound, 16 * torch.finfo(one.dtype).eps * scale_of(one))
