"""Golden items: inputs that reach the corners of a model, what the eager model makes of them, and how far is equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from edgecompile.capture import FlatModel
from edgecompile.domain import InputSpec, ModelSpec
from edgecompile.errors import UserError

__all__ = ["NUM_GOLDEN_ITEMS", "Reference", "example_inputs", "golden_inputs", "make_reference"]

NUM_GOLDEN_ITEMS = 4
_MOST_OWN_ERROR = 1e-3
"""Of the largest value: what lies farther from the model in float64 is no rounding."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the shards must reproduce. All tensors have the golden items as their first dimension."""

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    """Of the eager model, in its own precision."""
    exact: tuple[torch.Tensor, ...]
    """Of the same model computed in float64; `outputs` where those are no floats, or float64 computes another thing."""
    own_error: tuple[float, ...]
    """For each output the eager model's largest absolute error to `exact`."""
    allowed: tuple[float, ...]
    """For each output the largest absolute error to `exact`: twice the eager model's own, plus 1e-6 of the scale."""
    tolerance: tuple[float, ...]
    """For each output the largest absolute difference to `outputs` that follows from `allowed`."""
    scale: tuple[float, ...]
    """For each output its largest absolute value; 0 where it is no float."""


def golden_inputs(spec: ModelSpec, module: nn.Module, seed: int) -> tuple[torch.Tensor, ...]:
    """One tensor an input, (4, *shape): two seeds, the second half padded, then the lowest and the highest values.

    Where an input is a mask: all true, half true, one true, all true. Ids run from 0 to the model's vocabulary.
    """
    return tuple(_golden(item, module, seed, place) for place, item in enumerate(spec.inputs))


def example_inputs(spec: ModelSpec, golden: Sequence[torch.Tensor], microbatch: int) -> tuple[torch.Tensor, ...]:
    """One microbatch made of golden items, repeated as needed: (microbatch, *shape) each."""
    rows = torch.arange(microbatch) % NUM_GOLDEN_ITEMS
    return tuple(item[rows] for item in golden)


def _golden(item: InputSpec, module: nn.Module, seed: int, place: int) -> torch.Tensor:
    fill = item.fill or _usual_fill(item)
    shape = (NUM_GOLDEN_ITEMS, *item.shape)
    generator = torch.Generator().manual_seed(seed * 1000 + place)
    dtype = getattr(torch, item.dtype)
    if fill == "mask":
        return _mask(item, dtype)
    if fill in ("zeros", "ones"):
        return torch.full(shape, float(fill == "ones")).to(dtype)
    if fill == "ids":
        high = item.high or _vocabulary(item, module)
        values = torch.randint(0, high, shape, generator=generator)
        values[2] = torch.arange(values[2].numel()).reshape(values[2].shape) % 2 * (high - 1)
        values[3] = high - 1
        return values.to(dtype)
    if fill == "uniform":
        values = torch.rand(shape, generator=generator)
        values[2], values[3] = 0.0, 1.0
        return values.to(dtype)
    values = torch.randn(shape, generator=generator)
    values[3] *= 3
    return values.to(dtype)


def _usual_fill(item: InputSpec) -> str:
    if "mask" in item.name or item.dtype == "bool":
        return "mask"
    return "normal" if item.dtype.startswith(("float", "bfloat")) else "ids"


def _mask(item: InputSpec, dtype: torch.dtype) -> torch.Tensor:
    """Right-padded along the last axis; a mask without an axis is simply on and off."""
    mask = torch.ones((NUM_GOLDEN_ITEMS, *item.shape))
    if item.shape:
        length = item.shape[-1]
        mask[1, ..., (length + 1) // 2 :] = 0
        mask[2, ..., 1:] = 0
    else:
        mask[1] = 0
    return mask.to(dtype)


def _vocabulary(item: InputSpec, module: nn.Module) -> int:
    """One more than the largest id that the model takes: its config says it, or its embeddings' sizes."""
    config = next((value.config for value in module.modules() if hasattr(value, "config")), None)
    for word, key in (("type", "type_vocab_size"), ("position", "max_position_embeddings"), ("", "vocab_size")):
        value = getattr(config, key, None)
        if word in item.name and isinstance(value, int) and value > 0:
            return value
    sizes = [value.num_embeddings for value in module.modules() if isinstance(value, nn.Embedding)]
    return min(sizes, default=2)


def make_reference(flat: FlatModel, inputs: Sequence[torch.Tensor], microbatch: int) -> Reference:
    """Runs the eager model in its own precision, again to see that it is deterministic, and in float64.

    Raises:
        UserError: the model fails on the inputs, is random, or has an output that is not batched.
    """
    size = min(microbatch, NUM_GOLDEN_ITEMS)
    outputs = _run(flat, inputs, size)
    again = _run(flat, [value[:size] for value in inputs], size)
    for name, value, repeated in zip(flat.output_names, outputs, again, strict=True):
        if not torch.allclose(value[:size], repeated, equal_nan=True):
            raise UserError(f"the model is random: its output {name!r} differs between two runs on the same input")
    exact = _run_float64(flat, inputs, size) or outputs
    owns, allowed, tolerance, scales, trusted = [], [], [], [], []
    for value, wide in zip(outputs, exact, strict=True):
        true, own, scale = _trusted(value, wide)
        trusted.append(true)
        owns.append(own)
        allowed.append(2 * own + 1e-6 * scale)
        tolerance.append(3 * own + 1e-6 * scale)
        scales.append(scale)
    return Reference(
        inputs=tuple(inputs),
        outputs=outputs,
        exact=tuple(trusted),
        own_error=tuple(owns),
        allowed=tuple(allowed),
        tolerance=tuple(tolerance),
        scale=tuple(scales),
    )


def _run_float64(flat: FlatModel, inputs: Sequence[torch.Tensor], size: int) -> tuple[torch.Tensor, ...] | None:
    """All items at once, so that each weight is widened once; in batches of `size` where the model insists on them.

    None for a model that insists on float32.
    """
    wide = [value.double() if value.is_floating_point() else value for value in inputs]
    for batch in (len(wide[0]), size):
        with _WidenMixed(), _Float64(), suppress(UserError):  # type: ignore[no-untyped-call]
            return _run(flat, wide, batch)
    return None


def _trusted(value: torch.Tensor, wide: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """What shards are compared with, the eager model's own error to it, and its largest value.

    Where float64 takes another path than float32 does (a fused kernel, a close decision), or none, the eager outputs
    are compared with themselves, and rounding is all that shards may add.
    """
    if not value.is_floating_point():
        return value, 0.0, 0.0
    own, scale = _error_and_scale(value, wide)
    rounding = torch.finfo(value.dtype).eps
    if wide.dtype == torch.float64 and own <= max(_MOST_OWN_ERROR, 4 * rounding) * scale:
        return wide, own, scale
    _, scale = _error_and_scale(value, value.double())
    return value.double(), 32 * rounding * scale, scale


def _error_and_scale(value: torch.Tensor, true: torch.Tensor) -> tuple[float, float]:
    finite = true.isfinite()
    if not bool(finite.any()):
        return 0.0, 0.0
    return float((value.double() - true)[finite].abs().nan_to_num(0.0).max()), float(true[finite].abs().max())


def _run(flat: FlatModel, inputs: Sequence[torch.Tensor], size: int) -> tuple[torch.Tensor, ...]:
    pieces: list[tuple[torch.Tensor, ...]] = []
    for start in range(0, len(inputs[0]), size):
        batch = [value[start : start + size] for value in inputs]
        try:
            with torch.no_grad():
                pieces.append(flat(*batch))
        except UserError:
            raise
        except Exception as error:  # whatever the user's model raises on inputs of the shapes it was given
            first = (str(error).strip().splitlines() or [""])[0]
            shapes = ", ".join(
                f"{name} {list(value.shape[1:])}" for name, value in zip(flat.names, inputs, strict=True)
            )
            raise UserError(
                f"the model fails on inputs of the shapes in model.inputs ({shapes}): {type(error).__name__}: {first}"
            ) from error
        for name, value in zip(flat.output_names, pieces[-1], strict=True):
            if value.dim() == 0 or len(value) != len(batch[0]):
                raise UserError(
                    f"model.output: {name!r} has the shape {list(value.shape)} for {len(batch[0])} items: its first "
                    "dimension must be the items; choose other fields with model.output"
                )
    return tuple(torch.cat(values) for values in zip(*pieces, strict=True))


class _Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes every float32 operator in float64. Weights are widened one at a time, so no second copy is held."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*tree_map(_widened, tuple(args)), **tree_map(_widened, dict(kwargs or {})))
        return tree_map(_widened, result)


class _WidenMixed(TorchFunctionMode):
    """Widens float32 weights beside float64 inputs where torch checks that both agree before it dispatches (conv)."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        dtypes = {value.dtype for value in tree_leaves((tuple(args), kwargs)) if isinstance(value, torch.Tensor)}
        if torch.float64 in dtypes and torch.float32 in dtypes:
            args, kwargs = tree_map(_widened, tuple(args)), tree_map(_widened, kwargs)
        return func(*args, **kwargs)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype is torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value
