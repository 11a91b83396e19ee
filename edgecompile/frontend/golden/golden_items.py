"""Golden items: inputs that reach a model's edge cases, the eager outputs, and tolerances."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from edgecompile.config.methods import Fill
from edgecompile.config.model_spec import InputSpec, ModelSpec
from edgecompile.execution.closeness import difference, scale_of
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.golden.eager import Eager, ModelFails
from edgecompile.frontend.golden.independence import ItemsMixed, exact_outputs, find_influence
from edgecompile.frontend.golden.purity import watched_run

__all__ = ["NUM_GOLDEN_ITEMS", "Reference", "example_inputs", "golden_inputs", "make_reference"]

NUM_GOLDEN_ITEMS = 4
_MOST_OWN_ERROR = 1e-3
"""Of the largest value: what lies farther from the model in float64 is not rounding."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the shards must reproduce. All tensors have the golden items as their first dimension."""

    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    """Of the eager model, in its own precision."""
    exact: tuple[torch.Tensor, ...]
    """Of the same model computed in float64; `outputs` where those are not floats, or float64 takes another path."""
    own_error: tuple[float, ...]
    """For each output the eager model's largest absolute error to `exact`."""
    allowed: tuple[float, ...]
    """For each output the largest absolute error to `exact`: twice the eager model's own, plus 1e-6 of the scale."""
    tolerance: tuple[float, ...]
    """For each output the largest absolute difference to `outputs` that follows from `allowed`."""
    scale: tuple[float, ...]
    """For each output its largest absolute value; 0 where it is not a float."""
    notes: tuple[str, ...] = ()
    """What a user should know of the model's items."""


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
    if fill is Fill.MASK:
        return _mask(item, dtype)
    if fill is Fill.POSITIONS:
        mask = _mask(item, dtype)
        return torch.where(mask > 0, torch.arange(item.shape[-1], dtype=dtype), torch.full_like(mask, -1))
    if fill in (Fill.ZEROS, Fill.ONES):
        return torch.full(shape, float(fill is Fill.ONES)).to(dtype)
    if fill is Fill.IDS:
        high = item.high or _vocabulary(item, module)
        values = torch.randint(0, high, shape, generator=generator)
        values[2] = torch.arange(values[2].numel()).reshape(values[2].shape) % 2 * (high - 1)
        values[3] = high - 1
        return values.to(dtype)
    if fill is Fill.UNIFORM:
        values = torch.rand(shape, generator=generator)
        values[2], values[3] = 0.0, 1.0
        return values.to(dtype)
    values = torch.randn(shape, generator=generator)
    values[3] *= 3
    return values.to(dtype)


def _usual_fill(item: InputSpec) -> Fill:
    if "mask" in item.name or item.dtype == "bool":
        return Fill.MASK
    return Fill.NORMAL if item.dtype.startswith(("float", "bfloat")) else Fill.IDS


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
    """Runs the eager model in its own precision, among other neighbours, and in float64.

    Raises:
        UserError: the model fails on the inputs, is random, keeps state between calls, has an output that is not
            batched, or computes an item's result from other items of its microbatch.
    """
    eager = Eager(flat, inputs)
    size = min(microbatch, NUM_GOLDEN_ITEMS)
    try:
        outputs = watched_run(eager, size)
    except ModelFails:
        if microbatch == size:
            raise
        size = microbatch  # it insists on batches of this size
        outputs = watched_run(eager, size)
    influence = find_influence(eager, outputs, size)
    exact = None
    if influence is None:
        exact, influence = exact_outputs(eager, outputs, size)
    notes = []
    if influence is not None:
        if microbatch > 1:
            raise ItemsMixed(influence)
        notes.append(f"{influence}: at microbatch=1 each item is computed alone")
        with suppress(ModelFails):
            exact = eager.run_groups(1, wide=True)
    owns, allowed, tolerance, scales, trusted = [], [], [], [], []
    for value, wide in zip(outputs, exact or outputs, strict=True):
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
        notes=tuple(notes),
    )


def _trusted(value: torch.Tensor, wide: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """What shards are compared with, the eager model's own error to it, and its largest value.

    Where float64 takes another path than float32 does (a fused kernel, a close decision), or none, the eager outputs
    are compared with themselves, and rounding is all that shards may add.
    """
    if not value.is_floating_point():
        return value, 0.0, 0.0
    own, scale = _error_and_scale(value, wide)
    rounding = torch.finfo(value.dtype).eps
    limit = max(_MOST_OWN_ERROR, 4 * rounding) * scale
    # a sum of normalised values may cancel to nothing: what is left is the rounding of values about 1
    if wide.dtype == torch.float64 and own <= max(limit, 32 * rounding):
        return wide, own, scale
    _, scale = _error_and_scale(value, value.double())
    return value.double(), 32 * rounding * scale, scale


def _error_and_scale(value: torch.Tensor, true: torch.Tensor) -> tuple[float, float]:
    finite = true.isfinite()
    if not bool(finite.any()):
        return 0.0, 0.0
    return difference(torch.where(value.isnan(), true, value)[finite], true[finite]), scale_of(true)
