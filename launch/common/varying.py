"""Extents of items, which vary, and the sizes of the message that they share. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgecompile.contract.dim_rules import BATCH, item_dims
from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgecompile.contract.plan import TensorSpec, product
from edgecompile.execution.batching import Extents

__all__ = ["Extents", "Sizes", "Varying", "fill_row", "fits", "range_of", "shape_words"]

Sizes = tuple[int, ...]
"""Of a message, in the order of the plan's dimensions; empty where none varies."""


class Varying:
    """The dimensions of a plan that vary, as items have them; none of these where only the batch does."""

    def __init__(self, plan: ModelFacts) -> None:
        self._dims, self._padding = plan.model.dims, plan.model.padding
        self.names = item_dims(plan)
        self._axes = {name: [(spec.name, axis - 1, _factor(text)) for spec in plan.inputs
                             for axis, text in enumerate(spec.dims) if text is not None and name in text.split("*")]
                      for name in self.names}  # fmt: skip
        """By the name: the inputs that have it, on which axis of an item, and how often."""
        self.may_differ = tuple(all(found in self._padding for found, _, _ in self._axes[name]) for name in self.names)
        """For each name, whether items that differ in it may share a message."""
        self.ranges = {name: (1 if may else self._dims[name].min, self._dims[name].max)
                       for name, may in zip(self.names, self.may_differ, strict=True)}  # fmt: skip
        """The extents that an item may have. Below the dimension's own least ones it is padded, where that may be."""
        self.least = {name: dim.min for name, dim in self._dims.items()}

    def extents(self, arrays: Mapping[str, Any]) -> Extents:
        """Of an item whose arrays fit."""
        return tuple(self._all_extents(name, arrays)[0] for name in self.names)

    def check(self, arrays: Mapping[str, Any], where: str) -> None:
        """Raises UserError where the inputs of an item, each of which fits by itself, do not agree."""
        for name in self.names:
            if len(set(self._all_extents(name, arrays))) > 1:
                given = ", ".join(f"{found} {tuple(arrays[found].shape)}" for found, _, _ in self._axes[name])
                raise UserError(f"{where}: the inputs differ in their {name}: {given}")

    def _all_extents(self, name: str, arrays: Mapping[str, Any]) -> list[int]:
        found = [arrays[found].shape[axis] // factor for found, axis, factor in self._axes[name]]
        return found or [self._dims[name].max]

    def sizes(self, items: Sequence[Extents]) -> Sizes:
        """Of the message that these items share; empty where no dimension varies."""
        largest = dict(zip(self.names, map(max, zip(*items, strict=True)), strict=True)) | {BATCH: len(items)}
        return tuple(max(largest[name], dim.min) for name, dim in self._dims.items())

    def padding(self, name: str) -> float:
        """What fills an input beyond an item's own extent."""
        return self._padding.get(name, 0.0)

    def cut(self, spec: TensorSpec, tensor: Any, extents: Extents) -> Any:
        """An item's own part of an output, which has no batch dimension."""
        own = dict(zip(self.names, extents, strict=True))
        for axis, text in enumerate(spec.dims[1:]):
            if text is not None:
                tensor = tensor.narrow(axis, 0, product(text, own))
        return tensor


def _factor(text: str) -> int:
    return math.prod(int(part) for part in text.split("*") if part.isdigit())


def fits(shape: Sequence[int], spec: TensorSpec, ranges: Mapping[str, tuple[int, int]]) -> bool:
    """Whether an item's array may be this input. `ranges`: of Varying."""
    if not ranges or not spec.dims:
        return tuple(shape) == spec.shape[1:]
    wanted = zip(shape, spec.shape[1:], spec.dims[1:], strict=True)
    return len(shape) == len(spec.shape) - 1 and all(_axis_fits(*axis, ranges) for axis in wanted)


def _axis_fits(extent: int, largest: int, text: str | None, ranges: Mapping[str, tuple[int, int]]) -> bool:
    if text is None:
        return extent == largest
    least, most = range_of(text, ranges)
    return least <= extent <= most and extent % _factor(text) == 0


def range_of(text: str, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """The extents that an axis such as `length` or `2*length` may have."""
    low, high = ({name: ends[side] for name, ends in ranges.items()} for side in (0, 1))
    return product(text, low), product(text, high)


def shape_words(spec: TensorSpec, ranges: Mapping[str, tuple[int, int]]) -> str:
    """An item's shape in words: `(3, 1 to 128)`."""
    if not ranges or not spec.dims:
        return str(spec.shape[1:])
    words = [str(extent) if text is None else "{} to {}".format(*range_of(text, ranges))
             for extent, text in zip(spec.shape[1:], spec.dims[1:], strict=True)]  # fmt: skip
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def fill_row(row: Any, value: Any, padding: float) -> None:
    """Copies an item's tensor into its row of a message, which is filled beyond it."""
    if row.shape != value.shape:
        row.fill_(padding)
        row = row[tuple(slice(extent) for extent in value.shape)]
    row.copy_(value)
