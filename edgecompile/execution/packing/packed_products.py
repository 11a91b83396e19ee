"""Products of weights of four bits, several behind each other, as native code takes them; operators that compute them.

Codes, scales and zeros are one block of memory in the order in which few rows read it, and many rows read the same. All
is computed as torch's kernels do it: activations are rounded to bf16, sums are of float32, results are rounded to bf16.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["MULTIPLY", "MULTIPLY_AND_KEEP", "Product", "multiply_rows", "pack_products", "packs_here",
           "register_packed_products"]  # fmt: skip

native: Any = None
with contextlib.suppress(ImportError):  # of the source folder by itself nothing was built
    from edgecompile import _native_text as native

MULTIPLY, MULTIPLY_AND_KEEP = "edgecompile::multiply_rows", "edgecompile::multiply_and_keep_rows"
_RECORD = struct.Struct("=7qd")
"""ProductRecord of packed_rows.hpp."""
_REGISTERED: list[Any] = []
"""What is registered goes with the last reference to its library."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """Rows are normalized or gated, multiplied, and what was kept is added."""

    codes: torch.Tensor
    """(out, in / 2), uint8, two of 4 bits, the first in the lower half."""
    scale: torch.Tensor
    """(in / 32, out, 2), bf16: the scale and the zero of each group."""
    norm: torch.Tensor | None = None
    """Weights of a normalization by the root of the mean square, (in,): rows are kept as they were before it."""
    epsilon: float = 0.0
    gated: bool = False
    """Rows are of twice the size: silu of their first half, times the second."""
    bias: torch.Tensor | None = None
    added: bool = False
    """The rows that were kept last are added to the result."""


def packs_here() -> bool:
    """Whether native code is to compute on this rank: it has one thread; with more, torch's kernels share the work."""
    return native is not None and torch.get_num_threads() == 1


def pack_products(products: Sequence[Product]) -> torch.Tensor:
    """Products behind each other, as products_in of packed_rows.hpp reads them; uint8."""
    places, end = [], _RECORD.size * (1 + len(products))
    for product in products:
        channels, half = product.codes.shape
        own = [end]
        end += native.packed_size(channels, 2 * half)
        for floats in (product.norm, product.bias):
            own.append(0 if floats is None else end)
            end += 0 if floats is None else -(-floats.numel() // 16) * 64
        places.append(own)
    result = torch.zeros(end, dtype=torch.uint8, device="cpu")
    head = struct.pack("=q56x", len(products))
    for product, (codes, norm, bias) in zip(products, places, strict=True):
        channels, half = product.codes.shape
        head += _RECORD.pack(codes, channels, 2 * half, norm, bias, product.gated, product.added, product.epsilon)
        own_codes, worth = product.codes.contiguous(), product.scale.contiguous()
        native.pack_weights(own_codes.data_ptr(), worth.data_ptr(), channels, 2 * half, result.data_ptr() + codes)
        for place, floats in ((norm, product.norm), (bias, product.bias)):
            if floats is not None:
                result[place : place + 4 * floats.numel()].view(torch.float32).copy_(floats)
    result[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
    return result


def multiply_rows(x: torch.Tensor, kept: torch.Tensor | None, products: torch.Tensor, channels: int) -> torch.Tensor:
    """
    Args:
        x: (..., in), float32.
        kept: (..., out of the first product), what that one adds.
        products: as pack_products gives them.
        channels: of the last product.

    Raises:
        ValueError: `kept` has rows of another size.
    """
    x, kept = _alike(x, kept)
    result = x.new_empty((*x.shape[:-1], channels))
    _multiply(x, kept, products, result, 0)
    return result


def multiply_and_keep_rows(
    x: torch.Tensor, kept: torch.Tensor | None, products: torch.Tensor, channels: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, and the rows that were kept last, of this size."""
    x, kept = _alike(x, kept)
    result, last = x.new_empty((*x.shape[:-1], channels)), x.new_empty((*x.shape[:-1], size))
    _multiply(x, kept, products, result, last.data_ptr())
    return result, last


def _alike(x: torch.Tensor, kept: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows behind each other, and as many of each."""
    if kept is None:
        return x.contiguous(), None
    if kept.shape[:-1] != x.shape[:-1]:
        shape = torch.broadcast_shapes(x.shape[:-1], kept.shape[:-1])  # type: ignore[no-untyped-call]
        x, kept = x.expand(*shape, x.shape[-1]), kept.expand(*shape, kept.shape[-1])
    return x.contiguous(), kept.contiguous()


def _multiply(
    x: torch.Tensor, kept: torch.Tensor | None, products: torch.Tensor, result: torch.Tensor, last: int
) -> None:
    size = x.shape[-1]
    rows = x.numel() // size
    if kept is None:
        native.multiply(x.data_ptr(), size, rows, size, 0, 0, 0, products.data_ptr(), result.data_ptr(), last)
        return
    width = kept.shape[-1]
    native.multiply(
        x.data_ptr(), size, rows, size, kept.data_ptr(), width, width, products.data_ptr(), result.data_ptr(), last
    )


@functools.cache
def register_packed_products() -> None:
    """Makes torch know the operators. Costs nothing the second time."""
    library: Any = torch.library.Library("edgecompile", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema, function in (
        ("multiply_rows(Tensor x, Tensor? kept, Tensor products, int channels) -> Tensor", multiply_rows),
        ("multiply_and_keep_rows(Tensor x, Tensor? kept, Tensor products, int channels, int size) -> (Tensor, Tensor)",
         multiply_and_keep_rows),
    ):  # fmt: skip
        library.define(schema)
        library.impl(function.__name__, function, "CompositeExplicitAutograd")
    _REGISTERED.append(library)
