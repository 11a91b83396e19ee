"""The facts of a model that reading its items takes; and how a compiler without a launcher comes by a reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import DataSpec, ModelInfo, TensorSpec

__all__ = ["KnownModel", "LabelledItem", "ModelFacts", "ReadItems", "items_reader"]

_GROUP = "edgecompile.items"


class ModelFacts(Protocol):
    """A plan has them."""

    @property
    def model(self) -> ModelInfo: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def data(self) -> DataSpec: ...


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """Of a model whose plan is yet to be made."""

    model: ModelInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    data: DataSpec


@dataclass(frozen=True, kw_only=True)
class LabelledItem:
    arrays: Mapping[str, Any]
    """A numpy array an input, without the batch."""
    label: int | None = None


ReadItems = Callable[[ModelFacts, Path, Path, int], list[LabelledItem]]
"""The first items of a file or folder, as `edgelaunch --input` takes it.

Args: the model, the plan's folder, the file, and how many items at most. Raises UserError as `--input` does.
"""


def items_reader() -> ReadItems:
    """That of the launcher, which the compiler does not import.

    Raises:
        UserError: it is not installed.
    """
    for found in entry_points(group=_GROUP):
        return cast(ReadItems, found.load())
    raise UserError(f"nothing here reads items (no entry point {_GROUP!r}): install edgecompile with pip")
