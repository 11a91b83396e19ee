"""Validation rules for the dimensions of a plan that vary from message to message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgecompile.contract.errors import UserError, choices

if TYPE_CHECKING:
    from edgecompile.contract.plan import Plan, TensorSpec

__all__ = ["BATCH", "MOST_EXTENT", "check_dims"]

BATCH = "batch"
MOST_EXTENT = 1 << 24
"""Of a dimension that varies."""


def check_dims(plan: Plan, where: str) -> None:
    """Raises UserError at the first rule that the plan's dimensions break."""
    dims, inputs = plan.model.dims, {spec.name for spec in plan.inputs}
    for name, dim in dims.items():
        if not name.isidentifier():
            raise _misfit(where, "model.dims", name, "the names of dimensions")
        if not 1 <= dim.min <= dim.max <= MOST_EXTENT:
            allowed = f"1 <= min <= max <= {MOST_EXTENT}"
            raise _misfit(where, f"model.dims.{name}", [dim.min, dim.max], allowed)
    if dims and (BATCH not in dims or dims[BATCH].max != plan.model.microbatch):
        raise _misfit(where, "model.dims", sorted(dims), f"{BATCH} among them, with the microbatch as its max")
    for name in plan.model.padding:
        if name not in inputs:
            raise _misfit(where, "model.padding", name, "one of " + choices(inputs, name))
    for key, spec in _tensors(plan):
        _check_tensor(plan, spec, where, key)
    for spec in (*plan.inputs, *plan.outputs):
        if dims and spec.dims[:1] != (BATCH,):
            raise _misfit(where, f"dims of {spec.name}", list(spec.dims), f"{BATCH} as the first")


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
        parts = () if text is None else text.split("*")
        if not all(part in known or part.isdigit() for part in parts):
            raise _misfit(where, f"{key}.dims", text, "null, or a product of " + choices(known))
    largest = spec.shape_at({name: dim.max for name, dim in known.items()})
    if largest != spec.shape:
        raise _misfit(where, f"{key}.shape", list(spec.shape), f"{list(largest)}, the largest")
