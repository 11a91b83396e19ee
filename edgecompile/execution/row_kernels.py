"""Operators that a rank's graph alone has: what stands between the products of a language model, row by row.

A language model's step of one token is some fifty small operators a layer, which together take as long as its products
do. By native code, for one thread; with more of them torch's own operators share the work.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn import functional

from edgecompile.execution.fusion.native_code import native, native_runs, rows_of
from edgecompile.execution.low_precision import LEAST, LEVELS

__all__ = [
    "GATE_AND_SCALE",
    "NORMALIZE",
    "NORMALIZE_AND_SCALE",
    "SCALE",
    "candidates",
    "register_row_kernels",
]

SCALE, NORMALIZE = "edgecompile::scale_rows", "edgecompile::normalize_rows"
NORMALIZE_AND_SCALE, GATE_AND_SCALE = "edgecompile::normalize_and_scale_rows", "edgecompile::gate_and_scale_rows"
_REGISTERED: list[Any] = []
"""What is registered goes with the last reference to its library."""


def scale_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations as integer products take them.

    Args:
        x: (..., size), float32.

    Returns:
        Each row times 127 over its largest value, and that value, (..., 1).
    """
    if not native_runs(x):
        worth = x.abs().amax(-1, keepdim=True).clamp_min(LEAST)
        return x * (LEVELS / worth), worth
    x, stride = rows_of(x)
    scaled, worth = _room_for(x)
    native.scale(x.data_ptr(), stride, worth.numel(), x.shape[-1], scaled.data_ptr(), worth.data_ptr(), LEVELS, LEAST)
    return scaled, worth


def normalize_rows(x: torch.Tensor, weights: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root mean square normalization of (..., size), with weights (size,)."""
    if not native_runs(x, weights) or not _one_each(weights, x):
        normal: torch.Tensor = weights * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))
        return normal
    x, stride = rows_of(x)
    result, size = torch.empty_like(x, memory_format=torch.contiguous_format), x.shape[-1]
    native.normalize(
        x.data_ptr(), stride, x.numel() // max(1, size), size, weights.data_ptr(), epsilon, result.data_ptr()
    )
    return result


def normalize_and_scale_rows(
    x: torch.Tensor, weights: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """scale_rows of normalize_rows."""
    if not native_runs(x, weights) or not _one_each(weights, x):
        return scale_rows(normalize_rows(x, weights, epsilon))
    x, stride = rows_of(x)
    scaled, worth = _room_for(x)
    native.normalize_and_scale(
        x.data_ptr(), stride, worth.numel(), x.shape[-1], weights.data_ptr(), epsilon, scaled.data_ptr(),
        worth.data_ptr(), LEVELS, LEAST,
    )  # fmt: skip
    return scaled, worth


def gate_and_scale_rows(gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """scale_rows of silu(gate) * up, of the same shape."""
    if not native_runs(gate, up) or gate.shape != up.shape:
        return scale_rows(functional.silu(gate) * up)
    (gate, gate_stride), (up, up_stride) = rows_of(gate), rows_of(up)
    scaled, worth = _room_for(gate)
    native.gate_and_scale(
        gate.data_ptr(), gate_stride, up.data_ptr(), up_stride, worth.numel(), gate.shape[-1], scaled.data_ptr(),
        worth.data_ptr(), LEVELS, LEAST,
    )  # fmt: skip
    return scaled, worth


def candidates(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The most likely tokens, the most likely first: of equal ones that with the least id, as argmax has it.

    Args:
        logits: (rows, vocabulary).

    Returns:
        Their scores and their ids, (rows, count) each, and the logarithm of the sum of all exponentials, (rows,).
    """
    rows, size = logits.shape
    if native_runs(logits) and logits.is_contiguous() and count <= size:
        scores, ids, sums = (
            logits.new_empty(rows, count),
            logits.new_empty((rows, count), dtype=torch.int64),
            logits.new_empty(rows),
        )
        native.candidates(logits.data_ptr(), rows, size, count, scores.data_ptr(), ids.data_ptr(), sums.data_ptr())
        return scores, ids, sums
    scores, ids = logits.topk(count)
    best = logits.argmax(-1, keepdim=True)
    ids = torch.where(ids == best, ids[:, :1], ids)  # its score is the first one's, wherever topk put it
    ids[:, :1] = best
    return scores, ids, logits.logsumexp(-1)


def _one_each(weights: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether there is a weight for each number of a row, behind each other: a single one for all is torch's."""
    return weights.shape == x.shape[-1:] and weights.is_contiguous()


def _room_for(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of its type and on its device, whatever an application's defaults are: native code writes there. empty_like takes
    half of new_empty's time, and a step calls this a hundred times."""
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1))


@functools.cache
def register_row_kernels() -> None:
    """Makes torch know the operators. Costs nothing the second time."""
    library: Any = torch.library.Library("edgecompile", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema, function in (
        ("scale_rows(Tensor x) -> (Tensor, Tensor)", scale_rows),
        ("normalize_rows(Tensor x, Tensor weights, float epsilon) -> Tensor", normalize_rows),
        ("normalize_and_scale_rows(Tensor x, Tensor weights, float epsilon) -> (Tensor, Tensor)",
         normalize_and_scale_rows),
        ("gate_and_scale_rows(Tensor gate, Tensor up) -> (Tensor, Tensor)", gate_and_scale_rows),
    ):  # fmt: skip
        library.define(schema)
        library.impl(function.__name__, function, "CompositeExplicitAutograd")
    _REGISTERED.append(library)
