"""Products and convolutions of eight bits: operators that every machine runs.

Activations are scaled by row (in convolutions by item), when they are there, or as they were calibrated, and weights by
output channel, when the plan is made: so the result of an item depends on no other item of its message. Both are whole
numbers of eight bits, whose products are summed up without rounding, by floats too as long as the sums stay below
2**24, so that both ways agree but for the last place.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from edgecompile.contract.closed_sets import WEIGHT_ONLY, Precision
from edgecompile.execution.fusion.product_kinds import EIGHT_BITS, FOUR_BITS
from edgecompile.execution.weight_only import kernels_here

__all__ = [
    "LEAST",
    "LEVELS",
    "CONV_INT8",
    "LINEAR_INT8",
    "conv_int8",
    "cpu_flags",
    "fast_here",
    "linear_int8",
    "register_operators",
]

LEVELS = 127
LEAST = 1e-30
"""Where a row is all zeros."""
LINEAR_INT8, CONV_INT8 = EIGHT_BITS.operator, "edgecompile::conv_int8"
_REGISTERED: list[Any] = []
"""What is registered goes with the last reference to its library."""
_SCHEMAS = (
    "linear_int8(Tensor x, Tensor codes, Tensor scale, Tensor? bias) -> Tensor",
    "conv_int8(Tensor x, Tensor codes, Tensor scale, Tensor? bias, int[] stride, int[] padding, int[] dilation, "
    "int groups, float? step, int zero) -> Tensor",
)


def linear_int8(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The product of activations and weights of eight bits, in floats.

    Args:
        x: (..., in), float32.
        codes: (out, in), int8, from -127 to 127.
        scale: (out,), float32: what a code of each output channel is worth.
        bias: (out,), float32.
    """
    rows = x.abs().amax(-1, keepdim=True).clamp_min(LEAST)
    whole = (x * (LEVELS / rows)).round()
    product = functional.linear(whole, codes.to(x.dtype)) * (rows * (1 / LEVELS)) * scale
    return product if bias is None else product + bias


def conv_int8(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    step: float | None = None,
    zero: int = 0,
) -> torch.Tensor:
    """A convolution of activations and weights of eight bits, in floats.

    Args:
        x: (items, in, height, width), float32.
        codes: (out, in over groups, height, width), int8, from -127 to 127.
        scale: (out,), float32: what a code of each output channel is worth.
        bias: (out,), float32.
        step: what a code of the activations is worth; None: as much as the largest of an item over 127.
        zero: the code of zero, of 0 to 255, where there is a step. Values beyond the codes are cut off, and an item
            with one that is not finite gives NaN.
    """
    worth: Any
    if step is None:
        items = x.abs().amax([1, 2, 3], keepdim=True).clamp_min(LEAST)
        whole, worth = (x * (LEVELS / items)).round(), items * (1 / LEVELS)
    else:
        whole, worth = (x * (1 / step)).round().clamp(-zero, 255 - zero), step
    product: torch.Tensor = functional.conv2d(whole, codes.to(x.dtype), None, stride, padding, dilation, groups)
    product = product * worth * scale.reshape(-1, 1, 1)
    if step is not None:
        product = product + x.sum([1, 2, 3], keepdim=True) * 0.0
    return product if bias is None else product + bias.reshape(-1, 1, 1)


@functools.cache
def register_operators() -> None:
    """Makes torch know the operators, which shards of this precision call. Costs nothing the second time."""
    library: Any = torch.library.Library("edgecompile", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema, function in zip(_SCHEMAS, (linear_int8, conv_int8), strict=True):
        library.define(schema)
        library.impl(function.__name__, function, "CompositeExplicitAutograd")
    _REGISTERED.append(library)


def fast_here(precision: Precision) -> bool:
    """Whether this machine's CPU has instructions for products of this precision, and torch the kernels."""
    if precision is Precision.FP32:
        return True
    if precision in WEIGHT_ONLY:
        return kernels_here() or (precision is Precision.INT4_WEIGHTS and FOUR_BITS.runs())
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    flags = cpu_flags()
    if precision is Precision.INT8:
        return bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8"}) and hasattr(torch.ops.onednn, "qlinear_pointwise")
    if precision is Precision.BF16:
        return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return bool(flags & {"avx512_fp16", "amx_fp16"})


@functools.cache
def cpu_flags() -> frozenset[str]:
    """As Linux names them; none elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    lines = [line.partition(":")[2] for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].split()) if lines else frozenset()
