"""Measures how far two results of the same item are apart, relative to the usual size of each value.

Masks leave the least float in outputs, and one channel may be a million times another: measured by the largest value of
a whole output, everything else would count as equal.
"""

from __future__ import annotations

import torch

__all__ = ["EXTREME", "SLACK", "difference", "relative_difference", "scale_of"]

EXTREME = 1e6
"""Larger values are compared relative to themselves alone, where there are smaller ones beside them."""
EXTREME_ROUNDING = 1e-5
SLACK = 4.0
"""How much farther than golden items others may be: errors are known beforehand of these few only."""
_LEAST_SHARE = 1e-4
"""A channel that is smaller than this share of the usual one is measured by that: what is left there is rounding."""


def scale_of(value: torch.Tensor) -> float:
    """The largest finite absolute value that is not extreme; of all, where all are."""
    finite = value[value.isfinite()].abs()
    usual = finite[finite < EXTREME]
    counted = usual if usual.numel() else finite
    return float(counted.max()) if counted.numel() else 0.0


def difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest absolute difference; NaN and infinities must be the same.

    Extreme values count as equal where they agree in five places.
    """
    if not (got.is_floating_point() or got.is_complex()):
        return 0.0 if torch.equal(got, wanted) else float("inf")
    wide = torch.complex128 if got.is_complex() else torch.float64
    one, other = got.to(wide), wanted.to(wide)
    same = (one == other) | (one.isnan() & other.isnan())
    gaps = (one - other).abs()
    same |= (other.abs() >= EXTREME) & (gaps <= EXTREME_ROUNDING * other.abs())
    return 0.0 if bool(same.all()) else float(gaps[~same].nan_to_num(float("inf"), posinf=float("inf")).max())


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two results of one item (no batch dimension), relative to what is usual in its channel.

    A channel is an entry of the last dimension. Infinite where NaN or infinities are not the same.
    """
    wide = torch.complex128 if one.is_complex() else torch.float64
    first, second = one.to(wide), other.to(wide)
    same = (first == second) | (first.isnan() & second.isnan())
    if bool(same.all()):
        return 0.0
    gaps = ((first - second).abs() / _usual(first)).nan_to_num(float("inf"), posinf=float("inf"))
    return float(gaps[~same].max())


def _usual(value: torch.Tensor) -> torch.Tensor:
    """For each element the largest usual value of its channel, or its own where that is larger."""
    size = value.abs().nan_to_num(0.0, posinf=0.0).reshape(-1, value.shape[-1] if value.dim() > 1 else 1)
    usual = torch.where(size < EXTREME, size, torch.zeros_like(size))
    channels = (usual if bool(usual.any()) else size).amax(0)
    if value.dim() <= 1:
        channels = channels.max().reshape(1)
    filled = channels[channels > 0]
    least = _LEAST_SHARE * float(filled.median()) if filled.numel() else 1.0
    return torch.maximum(size, channels.clamp(min=least)).reshape(value.shape)
