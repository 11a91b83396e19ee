"""Validation rules for the dimensions of a plan that vary from message to message, and for what shares a message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgecompile.contract.errors import UserError, choices

if TYPE_CHECKING:
    from edgecompile.contract.model_facts import ModelFacts
    from edgecompile.contract.plan import Plan, TensorSpec

__all__ = ["BATCH", "MOST_DIMS", "MOST_EXTENT", "MOST_WINDOW", "check_batching", "check_dims", "item_dims"]

BATCH = "batch"
MOST_EXTENT = 1 << 24
"""Of a dimension that varies."""
MOST_DIMS = 8
"""A message's header has room for so many."""
MOST_WINDOW = 1024


def item_dims(plan: ModelFacts) -> tuple[str, ...]:
    """The dimensions in which items differ from each other: those that vary, without the batch."""
    return tuple(name for name in plan.model.dims if name != BATCH)


def check_dims(plan: Plan, where: str) -> None:
    """Raises UserError at the first rule that the plan's dimensions break."""
    dims, inputs = plan.model.dims, {spec.name for spec in plan.inputs}
    for name, dim in dims.items():
        if not name.isidentifier():
            raise _misfit(where, "model.dims", name, "the names of dimensions")
        if not 1 <= dim.min <= dim.max <= MOST_EXTENT:
            allowed = f"1 <= min <= max <= {MOST_EXTENT}"
            raise _misfit(where, f"model.dims.{name}", [dim.min, dim.max], allowed)
    if len(dims) > MOST_DIMS:
        raise _misfit(where, "model.dims", list(dims), f"at most {MOST_DIMS}")
    if dims and (BATCH not in dims or dims[BATCH].max != plan.model.microbatch):
        raise _misfit(where, "model.dims", sorted(dims), f"{BATCH} among them, with the microbatch as its max")
    for name in plan.model.padding:
        if name not in inputs:
            raise _misfit(where, "model.padding", name, "one of " + choices(inputs, name))
    for key, spec in _tensors(plan):
        _check_tensor(plan, spec, where, key)
    if dims:
        _check_ends(plan, where)


def _check_ends(plan: Plan, where: str) -> None:
    """Items are put together into the model's inputs, and taken apart out of its outputs."""
    for spec in (*plan.inputs, *plan.outputs):
        names = [_names(text or "") for text in spec.dims]
        if spec.dims[:1] != (BATCH,) or any(BATCH in others for others in names[1:]):
            raise _misfit(where, f"dims of {spec.name}", list(spec.dims), f"{BATCH} as the first alone")
        if spec in plan.inputs and any(len(_names(text or "")) > 1 or "+" in (text or "") for text in spec.dims):
            raise _misfit(where, f"dims of {spec.name}", list(spec.dims), "one dimension an axis of an input")


def check_batching(plan: Plan, where: str) -> None:
    """Raises UserError at the first value of `runtime` that no message could be made with."""
    runtime = plan.runtime
    if not 1 <= runtime.window <= MOST_WINDOW:
        raise _misfit(where, "runtime.window", runtime.window, f"1 to {MOST_WINDOW}")
    if runtime.batch_tokens is not None and runtime.batch_tokens < 1:
        raise _misfit(where, "runtime.batch_tokens", runtime.batch_tokens, "1 or more, or null")


def _names(text: str) -> list[str]:
    return [part for part in _parts(text) if part and not part.isdigit()]


def _parts(text: str) -> list[str]:
    return text.replace("+", "*").split("*")


def _misfit(where: str, key: str, value: object, allowed: str) -> UserError:
    return UserError(f"{where}: invalid value {value!r} for {key}: expected {allowed}")


def _tensors(plan: Plan) -> Iterator[tuple[str, TensorSpec]]:
    sides = [("", plan)] + [(f"stages.{stage.stage}.", stage) for stage in plan.stages]
    for lost in plan.contingencies:
        sides += [(f"contingencies.{lost.lost}.stages.{stage.stage}.", stage) for stage in lost.stages]
    for key, side in sides:
        for kind, specs in (("inputs", side.inputs), ("outputs", side.outputs)):
            yield from ((f"{key}{kind}.{index}", spec) for index, spec in enumerate(specs))


def _check_tensor(plan: Plan, spec: TensorSpec, where: str, key: str) -> None:
    if not spec.dims:
        return
    if len(spec.dims) != len(spec.shape):
        raise _misfit(where, f"{key}.dims", list(spec.dims), f"one for each of {len(spec.shape)} axes")
    known = plan.model.dims
    for text in spec.dims:
        parts = [] if text is None else _parts(text)
        if not all(part in known or part.isdigit() for part in parts):
            raise _misfit(where, f"{key}.dims", text, "null, or sums and products of " + choices(known))
    largest = spec.shape_at({name: dim.max for name, dim in known.items()})
    if largest != spec.shape:
        raise _misfit(where, f"{key}.shape", list(spec.shape), f"{list(largest)}, the largest")
