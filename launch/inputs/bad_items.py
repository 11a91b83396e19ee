"""Handles items that cannot be read: the run stops, or the item leaves a marked gap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgelaunch.common.items import Entry, Item
from edgelaunch.common.varying import Varying
from edgelaunch.process.stderr import say

__all__ = ["BadItems"]

MOST_SAID = 10


class BadItems:
    """Counts them. In place of a bad item zeros go through the pipeline, so that results stay in step."""

    def __init__(self, plan: ModelFacts, *, gap: bool, quiet: bool = False) -> None:
        """`gap`: continue; otherwise the first one's error ends the run."""
        self.gap, self._quiet = gap, quiet
        self.num_items = 0
        self.num_empty_lines = 0
        """Of files whose lines are not sentences as they are: no result stands for them."""
        least = Varying(plan).least
        self._filler = {
            spec.name: np.zeros(spec.shape_at(least)[1:], "float32" if spec.dtype == "bfloat16" else spec.dtype)
            for spec in plan.inputs
        }

    def note(self, text: str) -> None:
        """Prints what a user must know of the input."""
        if not self._quiet:
            say(text, about="edgelaunch", event="input")

    def item(self, entry: Entry, read: Callable[[], Mapping[str, Any]]) -> Item:
        """The item as `read` gives it. Raises UserError where that fails and no gap is wanted."""
        try:
            return Item(entry, read())
        except UserError as error:
            if not self.gap:
                raise
            return self.missing(entry, str(error))

    def missing(self, entry: Entry, error: str) -> Item:
        """In place of an item that could not be read."""
        self.num_items += 1
        if not self._quiet and self.num_items <= MOST_SAID:
            more = "; the next ones are only counted" if self.num_items == MOST_SAID else ""
            say(f"left out: {' '.join(error.split())}{more}", level=logging.WARNING, about=f"item {entry.index}",
                event="bad_item", item=entry.index)  # fmt: skip
        return Item(replace(entry, error=error), self._filler)
