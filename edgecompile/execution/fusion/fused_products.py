"""Products that follow each other, with what stands between them, in one call of native code."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgecompile.execution.fusion.native_code import native, rows_of
from edgecompile.execution.fusion.product_kinds import Codes, Kind, PackedWeights, WeightRoom

__all__ = ["FUSED_PRODUCTS", "FusedProducts", "Operand", "Product", "one_product", "register_fused_products"]

FUSED_PRODUCTS = "edgecompile::fused_products"
_REGISTERED: list[Any] = []
"""What is registered goes with the last reference to its library."""


@dataclass(frozen=True)
class Operand:
    """A part of a value: as many numbers of each row as are needed, from `begin` on."""

    value: int
    """What is given comes first, then the result of each product."""
    begin: int = 0


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product with what stands before and behind it."""

    weights: PackedWeights
    x: Operand
    gated: Operand | None = None
    """The activations are silu(x) * gated, where there is one."""
    normalizing: torch.Tensor | None = None
    """Weights of a root mean square normalization of the activations, (in,), float32."""
    epsilon: float = 0.0
    added: Operand | None = None
    """To the result."""

    def operands(self) -> list[Operand]:
        return [operand for operand in (self.x, self.gated, self.added) if operand is not None]

    def plain(self) -> Any:
        """As native code takes it."""
        x, gated, added = (
            (-1, 0) if part is None else (part.value, part.begin) for part in (self.x, self.gated, self.added)
        )
        normalizing = 0 if self.normalizing is None else self.normalizing.data_ptr()
        return self.weights.native, x, gated, normalizing, self.epsilon, added


class FusedProducts:
    """Graphs of TorchScript hold tensors and numbers alone: they know it by its number, as long as this object lives.

    So it is checked and laid out once, when it is made. A tensor that holds the same as bytes would be read again at
    each call, by a second description of its layout, and could say nothing of what is wrong with it.
    """

    def __init__(self, sizes: Sequence[int], products: Sequence[Product], wanted: Sequence[bool]) -> None:
        """
        Args:
            sizes: of a row of each value that is given.
            wanted: for each product, whether its result is asked for.

        Raises:
            ValueError: an operand is not a part of a value before it.
        """
        self._sizes, self._products = tuple(sizes), tuple(products)
        self._native = native.FusedProducts(list(sizes), [product.plain() for product in products])
        self._outs = [product.weights.out if asked else 0 for product, asked in zip(products, wanted, strict=True)]
        self.number = next(_NUMBERS)
        _KNOWN[self.number] = self

    def __call__(self, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """
        Args:
            given: (..., size) each, or what broadcasts to that.

        Returns:
            What is asked for, (..., out) each.
        """
        ahead = given[0].shape[:-1]
        for value, size in zip(given, self._sizes, strict=True):
            if value.shape[-1:] != (size,) or value.shape[:-1] != ahead or value.dtype is not torch.float32:
                return self._broadcast(given)
        return self._run(given, ahead)

    def _run(self, given: Sequence[torch.Tensor], ahead: Sequence[int]) -> list[torch.Tensor]:
        rows = [rows_of(value) for value in given]
        results = [given[0].new_empty((*ahead, out)) for out in self._outs if out]
        rest = iter(results)
        self._native.run(
            given[0].numel() // self._sizes[0],
            [(value.data_ptr(), stride) for value, stride in rows],
            [next(rest).data_ptr() if out else 0 for out in self._outs],
        )
        return results

    def _broadcast(self, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The same of values of unlike shapes: each result has the shape that torch's operators would give it."""
        shapes = [value.shape[:-1] for value in given]
        whole = _common(shapes)
        alike = [value.to(torch.float32).expand(*whole, size) for value, size in zip(given, self._sizes, strict=True)]
        results = self._run(alike, whole)
        for product in self._products:
            shapes.append(_common([shapes[operand.value] for operand in product.operands()]))
        asked = [shape for shape, out in zip(shapes[len(given) :], self._outs, strict=True) if out]
        return [
            result[(0,) * (len(whole) - len(shape))][tuple(slice(size) for size in shape)]
            for result, shape in zip(results, asked, strict=True)
        ]


def _common(shapes: Sequence[torch.Size]) -> torch.Size:
    return torch.broadcast_shapes(*shapes)  # type: ignore[no-any-return,no-untyped-call]


def one_product(kind: Kind, codes: Codes) -> FusedProducts:
    """A product by itself, of whole activations."""
    out, into = kind.shape(codes.codes)
    size = kind.packed_size(out, into)
    weights = kind.pack([codes], WeightRoom([size]).take(size))
    return FusedProducts([into], [Product(weights=weights, x=Operand(0))], [True])


_NUMBERS = itertools.count()
_KNOWN: weakref.WeakValueDictionary[int, FusedProducts] = weakref.WeakValueDictionary()


def fused_products(given: list[torch.Tensor], number: int) -> list[torch.Tensor]:
    """Those of that number."""
    return _KNOWN[number](given)


@functools.cache
def register_fused_products() -> None:
    """Makes torch know the operator. Costs nothing the second time."""
    library: Any = torch.library.Library("edgecompile", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define("fused_products(Tensor[] given, int number) -> Tensor[]")
    library.impl("fused_products", fused_products, "CompositeExplicitAutograd")
    _REGISTERED.append(library)
