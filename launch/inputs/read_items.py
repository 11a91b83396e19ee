"""Reads items for the compiler, which measures on them what a precision costs: its entry point `edgecompile.items`."""

from __future__ import annotations

from pathlib import Path

from edgecompile.contract.model_facts import LabelledItem, ModelFacts
from edgelaunch.common.items import Flush
from edgelaunch.inputs.open_input import open_source

__all__ = ["read_items"]


def read_items(model: ModelFacts, folder: Path, path: Path, limit: int) -> list[LabelledItem]:
    """The first items, as `edgelaunch --input` takes them; see contract.model_facts.ReadItems."""
    source = open_source(model, folder, path, limit)
    return [
        LabelledItem(arrays=item.arrays, label=item.entry.label) for item in source.items if not isinstance(item, Flush)
    ]
