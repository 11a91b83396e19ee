"""Describes a model's inputs by example: tensors, arrays or specs -> what a model option says of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgecompile.contract.errors import UserError

__all__ = ["Inputs", "input_specs"]

Inputs = Any
"""Example tensors or arrays, or specs, by the name of forward's argument; or one example, or a sequence of them, in the
order of forward's arguments."""

_EXPECTED = "expected a tensor, an array, or {'shape': [...], 'dtype': 'float32'}"


def input_specs(inputs: Inputs, forward: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """What `model.inputs` holds.

    An example is what forward() takes, so its first dimension is the batch, and how many items it has does not matter.
    A spec is of one item, as in a model option: its shape has no batch.

    Raises:
        UserError: an input is neither, has no batch dimension, or has another batch than the others.
    """
    named = _named(inputs, forward)
    if not named:
        raise UserError("inputs is empty", fix=_EXPECTED + " for each argument of forward()")
    batches = {name: len(value) for name, value in named.items() if _is_example(value) and _rank(name, value)}
    if len(set(batches.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in batches.items())
        raise UserError(f"the first dimension, the batch, differs: {told}", key="inputs", fix="give them the same")
    return {name: _spec(name, value) for name, value in named.items()}


def _is_example(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _rank(name: str, value: Any) -> int:
    rank = len(value.shape)
    if not rank:
        raise UserError("a single number", key=f"inputs.{name}", fix="the first dimension counts the items of a batch")
    return rank


def _spec(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if not _is_example(value):
        raise UserError(f"is of type {type(value).__name__}", key=f"inputs.{name}", fix=_EXPECTED)
    return {"shape": [int(extent) for extent in value.shape[1:]], "dtype": str(value.dtype).removeprefix("torch.")}


def _named(inputs: Inputs, forward: Callable[..., Any]) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return {str(name): value for name, value in inputs.items()}
    if _is_example(inputs):
        examples: Sequence[Any] = [inputs]
    elif isinstance(inputs, (list, tuple)):
        examples = inputs
    else:
        raise UserError(f"is of type {type(inputs).__name__}", key="inputs", fix=f"by name, {_EXPECTED}")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, item in inspect.signature(forward).parameters.items() if item.kind in kinds]
    if len(examples) > len(names):
        raise UserError(
            f"{len(examples)} examples, but forward() names {len(names)} arguments", key="inputs",
            fix="give them by name: {'x': tensor}",
        )  # fmt: skip
    return dict(zip(names, examples, strict=False))
