"""Extents that vary: whole numbers in a graph that remember how they follow from the dimensions of a message.

A graph that takes any batch and length holds a `DimInt` wherever an operator's argument depends on them. It is the
number at one choice of sizes, so that every pass and every analysis sees a graph of fixed shapes; a stage's module
computes it again from the tensors that reach it.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

__all__ = [
    "DimInt",
    "Expression",
    "NotSymbolic",
    "Sizes",
    "fitted",
    "is_sized",
    "map_numbers",
    "names_needed",
    "resize",
    "settle_numbers",
]

_MOST_MORE = 8
"""Positions that a model adds to an item's own, such as class tokens and registers."""
Sizes = Mapping[str, int]
"""The extent of each dimension, by name."""


class NotSymbolic(Exception):
    """The model cannot be compiled for sizes that vary; the message says why, for the plan's notes."""


class Expression:
    """A polynomial of dimensions with whole coefficients, such as `batch*length` or `2*length + 1`."""

    def __init__(self, terms: Mapping[tuple[str, ...], int]) -> None:
        """`terms`: the coefficient of each product of dimensions, whose names are sorted."""
        self.terms = {names: factor for names, factor in sorted(terms.items()) if factor}

    def at(self, sizes: Sizes) -> int:
        return sum(factor * math.prod(sizes[name] for name in names) for names, factor in self.terms.items())

    @property
    def names(self) -> set[str]:
        return {name for names in self.terms for name in names}

    @property
    def text(self) -> str | None:
        """As the plan writes it, such as `2*length+1`; None where something is subtracted."""
        if not self.terms or min(self.terms.values()) < 0:
            return None
        terms = sorted(self.terms.items(), key=lambda term: (-len(term[0]), term[0]))
        factors = ([*([str(factor)] if factor != 1 or not names else []), *names] for names, factor in terms)
        return "+".join("*".join(parts) for parts in factors)

    def __add__(self, other: Expression) -> Expression:
        total = Counter(self.terms)
        total.update(other.terms)
        return Expression(total)

    def __mul__(self, other: Expression) -> Expression:
        total: Counter[tuple[str, ...]] = Counter()
        for one, factor in self.terms.items():
            for two, times in other.terms.items():
                total[tuple(sorted((*one, *two)))] += factor * times
        return Expression(total)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(tuple(self.terms.items()))


class DimInt(int):
    """An extent, or what follows from extents, at some sizes. To everything else it is a number."""

    expression: Expression

    def __new__(cls, expression: Expression, sizes: Sizes) -> DimInt:
        made = super().__new__(cls, expression.at(sizes))
        made.expression = expression
        return made

    def __deepcopy__(self, memo: object) -> DimInt:
        return self


def expression_of(symbolic: Any, names: Mapping[Any, str]) -> Expression:
    """Of a sympy expression.

    Args:
        names: the dimension of each symbol.

    Raises:
        NotSymbolic: it is not a polynomial of these symbols.
    """
    if symbolic.is_Integer:
        return Expression({(): int(symbolic)})
    if symbolic in names:
        return Expression({(names[symbolic],): 1})
    if symbolic.is_Add or symbolic.is_Mul:
        parts = [expression_of(part, names) for part in symbolic.args]
        result = parts[0]
        for part in parts[1:]:
            result = result + part if symbolic.is_Add else result * part
        return result
    if symbolic.is_Pow and symbolic.exp.is_Integer and 0 < symbolic.exp <= 4:
        result = base = expression_of(symbolic.base, names)
        for _ in range(int(symbolic.exp) - 1):
            result = result * base
        return result
    raise NotSymbolic(f"it computes {symbolic} of its extents")


def fitted(values: Mapping[tuple[tuple[str, int], ...], int]) -> Expression | None:
    """What gives these values: a product of dimensions with a factor, or one dimension and a few; None for another.

    Args:
        values: by sizes, as sorted pairs; sizes whose extents have no common factors, so that no other product fits.
    """
    samples = [(dict(sizes), value) for sizes, value in values.items()]
    if len({value for _, value in samples}) == 1:
        return Expression({(): samples[0][1]})
    names = sorted(samples[0][0])
    for product in [(name,) for name in names] + [(a, b) for a in names for b in names if a <= b]:
        shares = {value / math.prod(sizes[name] for name in product) for sizes, value in samples}
        if len(shares) == 1 and (share := shares.pop()) == int(share):
            return Expression({product: int(share)})
    for name in names:
        rest = {value - sizes[name] for sizes, value in samples}
        if len(rest) == 1 and 0 < (more := rest.pop()) <= _MOST_MORE:
            return Expression({(name,): 1, (): more})
    return None


# --- in graphs -----------------------------------------------------------------------------------------------------


def numbers_in(value: Any) -> Iterator[DimInt]:
    """The DimInts among a node's arguments."""
    if isinstance(value, DimInt):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, dict):
        yield from numbers_in(tuple(value.values()))
    elif isinstance(value, slice):
        yield from numbers_in((value.start, value.stop, value.step))


def is_sized(node: fx.Node) -> bool:
    """Whether an argument of the operator follows from the sizes of the message."""
    return any(True for _ in numbers_in((node.args, node.kwargs)))


def names_needed(node: fx.Node) -> set[str]:
    """The dimensions that the operator's arguments follow from."""
    return {name for number in numbers_in((node.args, node.kwargs)) for name in number.expression.names}


def map_numbers(value: Any, change: Callable[[DimInt], Any]) -> Any:
    """The same arguments with each DimInt changed."""
    if isinstance(value, DimInt):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)([map_numbers(item, change) for item in value])
    if isinstance(value, dict):
        return {key: map_numbers(item, change) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(map_numbers(item, change) for item in (value.start, value.stop, value.step)))
    return value


def resize(graph: fx.Graph, sizes: Sizes) -> None:
    """Writes the numbers of these sizes into the graph."""
    for node in graph.nodes:
        if is_sized(node):
            node.args = map_numbers(node.args, lambda number: DimInt(number.expression, sizes))
            node.kwargs = map_numbers(node.kwargs, lambda number: DimInt(number.expression, sizes))


def settle_numbers(graph: fx.Graph, dims: Mapping[str, tuple[str | None, ...]], sizes: Sizes) -> None:
    """Turns each symbolic number that torch.export computes in the graph into a DimInt at its readers.

    Args:
        dims: for each placeholder's name, the dimension of each axis.
        sizes: those that the numbers shall have.

    Raises:
        NotSymbolic: the graph computes with extents what is not a polynomial of them.
    """
    names: dict[Any, str] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            for name, extent in zip(dims[node.name], node.meta["val"].shape, strict=True):
                if name is not None and isinstance(extent, torch.SymInt):
                    names[extent.node.expr] = name
    for node in reversed(list(graph.nodes)):
        value = node.meta.get("val")
        if node.op == "placeholder" or not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            continue
        if node.users:
            if not isinstance(value, torch.SymInt):
                raise NotSymbolic(f"it computes {value} of its extents")
            expression = expression_of(value.node.expr, names)
            number = DimInt(expression, sizes) if expression.names else expression.at({})
            for user in list(node.users):
                replace = functools.partial(_instead, node, number)
                user.args, user.kwargs = fx.map_arg(user.args, replace), fx.map_arg(user.kwargs, replace)
        graph.erase_node(node)


def _instead(old: fx.Node, new: int, argument: fx.Node) -> Any:
    return new if argument is old else argument
