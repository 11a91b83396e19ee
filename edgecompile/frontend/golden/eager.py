"""Runs the eager model on golden items, on copies of its inputs, in its own precision or in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from edgecompile.contract.errors import UserError
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.source_lines import failing_call, first_line

__all__ = ["Batch", "Eager", "ModelFails", "NoItems", "Outputs", "groups_of"]

Batch = tuple[torch.Tensor, ...]
"""A tensor an input, items first."""
Outputs = tuple[torch.Tensor, ...]
"""A tensor an output, items first."""


class ModelFails(UserError):
    """The model raises on these inputs."""


class NoItems(UserError):
    """An output does not have the items as its first dimension."""


def groups_of(count: int, size: int) -> list[list[int]]:
    """Items 0 to `count` - 1 in microbatches of `size`; the last one is filled up with the last item, as in a run."""
    return [[min(start + place, count - 1) for place in range(size)] for start in range(0, count, size)]


class Eager:
    """The model and the golden items that it runs on."""

    def __init__(self, flat: FlatModel, inputs: Sequence[torch.Tensor]) -> None:
        self.flat = flat
        self.inputs = tuple(inputs)

    @property
    def num_items(self) -> int:
        return len(self.inputs[0])

    def run(self, rows: Sequence[int], *, wide: bool = False) -> Outputs:
        """What the model makes of these items as one batch; in float64 where `wide`.

        Raises:
            ModelFails: the model raises.
            NoItems: an output's first dimension is not the batch.
        """
        return self.run_batch(self.batch(rows), wide=wide)

    def batch(self, rows: Sequence[int]) -> Batch:
        """These items as one batch, copied."""
        return tuple(value[list(rows)] for value in self.inputs)

    def run_batch(self, given: Batch, *, wide: bool = False) -> Outputs:
        """The same for any items, a tensor an input."""
        batch, count = [value.clone() for value in given], len(given[0])  # the model may write into them
        if wide:
            batch = [value.double() if value.is_floating_point() else value for value in batch]
        try:
            with torch.no_grad(), ExitStack() as modes:
                if wide:
                    modes.enter_context(_WidenMixed())
                    modes.enter_context(_Float64())  # type: ignore[no-untyped-call]
                outputs = self.flat(*batch)
        except UserError:
            raise
        except Exception as error:  # whatever the user's model raises on inputs of the shapes it was given
            raise ModelFails(self._failure(error)) from error
        for name, value in zip(self.flat.output_names, outputs, strict=True):
            if value.dim() == 0 or len(value) != count:
                raise NoItems(
                    f"model.output: {name!r} has the shape {list(value.shape)} for {count} item"
                    f"{'s' if count > 1 else ''}: its first dimension must be the items, whatever their number: "
                    "transpose it in the model, or choose other fields with model.output"
                )
        return tuple(outputs)

    def run_groups(self, size: int, *, wide: bool = False) -> Outputs:
        """All items in microbatches of `size`."""
        pieces = [self.run(rows, wide=wide) for rows in groups_of(self.num_items, size)]
        for name, *values in zip(self.flat.output_names, *pieces, strict=True):
            if len({(value.shape, value.dtype) for value in values}) > 1:
                shapes = ", ".join(str(list(value.shape)) for value in values)
                raise UserError(
                    f"model.output: the shape of {name!r} depends on the values of the inputs ({shapes}): choose other "
                    "fields with model.output"
                )
        return tuple(torch.cat(values)[: self.num_items] for values in zip(*pieces, strict=True))

    def _failure(self, error: Exception) -> str:
        place = failing_call(error, None)
        reason = f"{f'{place}: ' if place else ''}{type(error).__name__}: {first_line(error)}"
        pairs = zip(self.flat.names, self.inputs, strict=True)
        shapes = ", ".join(f"{name} {list(value.shape[1:])}" for name, value in pairs)
        return f"the model fails on inputs of the shapes in model.inputs ({shapes}): {reason}"


_NARROW = frozenset({torch.float16, torch.bfloat16, torch.float32})


class _Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes every operator of floats in float64. Weights are widened one at a time, so no second copy is held."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.embedding.default:  # of a whole table a few rows are read
            return tree_map(_widened, func(*args, **(kwargs or {})))
        if func in _VIEWS and _is_large(args[0]):
            return func(*args, **(kwargs or {}))
        if func in _PRODUCTS and _is_large(args[-1]) and not kwargs:
            return _in_pieces(func, args)
        result = func(*tree_map(_widened, tuple(args)), **tree_map(_widened, dict(kwargs or {})))
        return tree_map(_widened, result)


_PRODUCTS = frozenset({torch.ops.aten.mm.default, torch.ops.aten.addmm.default})
_VIEWS = frozenset({torch.ops.aten.t.default, torch.ops.aten.transpose.int, torch.ops.aten.detach.default})
_MOST_WIDENED = 32 << 20
"""Elements of a product's weights that are widened at a time."""


def _is_large(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _NARROW and value.numel() > _MOST_WIDENED


def _in_pieces(func: Any, args: Sequence[Any]) -> Any:
    """A product with a few columns of the last argument at a time; a bias (addmm) is a number for each column."""
    *before, activations, weights = args
    columns = max(1, _MOST_WIDENED // weights.shape[0])
    pieces = []
    for start in range(0, weights.shape[1], columns):
        piece = slice(start, start + columns)
        bias = [value[..., piece] if value.shape[-1] > 1 else value for value in before]
        pieces.append(func(*map(_widened, (*bias, activations, weights[:, piece]))))
    return torch.cat(pieces, dim=1)


class _WidenMixed(TorchFunctionMode):
    """Widens narrower weights beside float64 inputs where torch checks that both agree before it dispatches (conv)."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        dtypes = {value.dtype for value in tree_leaves((tuple(args), kwargs)) if isinstance(value, torch.Tensor)}
        in_pieces = func is functional.linear and any(map(_is_large, args))
        if torch.float64 in dtypes and dtypes & _NARROW and not in_pieces:
            args, kwargs = tree_map(_widened, tuple(args)), tree_map(_widened, kwargs)
        return func(*args, **kwargs)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _NARROW:
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
