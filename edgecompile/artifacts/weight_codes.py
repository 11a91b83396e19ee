"""Turns weights into codes of 8 or 4 bits, for products that compute with activations as they are."""

from __future__ import annotations

import torch

from edgecompile.contract.closed_sets import Precision
from edgecompile.execution.low_precision import LEVELS
from edgecompile.execution.weight_only import GROUP

__all__ = ["bits_of", "weight_codes"]

_BLOCK = 1 << 22
"""Weights that are looked at at a time."""


def bits_of(weight: torch.Tensor, precision: Precision) -> int:
    """Of a code: 4 bits need whole groups along the input; other weights (out, in) get 8."""
    return 4 if precision is Precision.INT4_WEIGHTS and weight.shape[1] % GROUP == 0 else 8


def weight_codes(weight: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """`codes` and `scale` as weight_only.weights_of takes them, of weights (out, in) in float32."""
    parts = [
        _codes8(part) if bits == 8 else _codes4(part) for part in torch.split(weight, max(1, _BLOCK // weight.shape[1]))
    ]
    codes, scales = zip(*parts, strict=True)
    return {"codes": torch.cat(codes).contiguous(), "scale": torch.cat(scales, 0 if bits == 8 else 1).contiguous()}


def _codes8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = _rounded(weight.abs().amax(1) / LEVELS)
    codes = (weight / scale.float().unsqueeze(1)).round_().clamp_(-LEVELS, LEVELS)
    return codes.to(torch.int8), scale


def _codes4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """From the least to the largest of each group, in 15 steps."""
    groups = weight.reshape(weight.shape[0], -1, GROUP)
    least, most = groups.amin(2), groups.amax(2)
    scale = _rounded((most - least) / 15)
    zero = (least + 8 * scale.float()).to(torch.bfloat16)
    codes = ((groups - zero.float().unsqueeze(2)) / scale.float().unsqueeze(2)).round_().add_(8).clamp_(0, 15)
    whole = codes.to(torch.uint8).reshape(weight.shape)
    packed = whole[:, ::2] | (whole[:, 1::2] << 4)
    return packed, torch.stack([scale, zero], -1).transpose(0, 1)


def _rounded(scale: torch.Tensor) -> torch.Tensor:
    return scale.clamp_min(torch.finfo(torch.float32).tiny * LEVELS).to(torch.bfloat16)
