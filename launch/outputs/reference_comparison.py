"""Compares every item of a run with the unsplit model, for plans compiled with reference=true."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.execution import torchscript
from edgecompile.execution.closeness import SLACK, scale_of
from edgecompile.terminal.libraries import import_libraries
from edgelaunch.common.items import Entry, Flush, Item
from edgelaunch.common.shard_files import check_file
from edgelaunch.common.varying import Extents, Varying, fill_row
from edgelaunch.outputs.golden import GoldenFile
from edgelaunch.outputs.golden_comparison import Comparison, difference

__all__ = ["Reference"]

BACKLOG_BYTES = 256 << 20
"""How much of inputs and results may wait for its comparison."""


_Waiting = tuple[Entry, dict[str, torch.Tensor], dict[str, torch.Tensor]]
"""An item with its inputs and its result."""


class Reference:
    """Keeps each item's inputs until its result is there, then runs the unsplit model on both."""

    def __init__(self, plan: Plan, folder: Path, golden: GoldenFile) -> None:
        """Raises UserError where the model's file is missing or has other bytes than the plan says, or a library is."""
        assert plan.golden.reference is not None
        assert plan.golden.reference_sha256 is not None
        path = folder / plan.golden.reference
        check_file(path, plan.golden.reference_sha256, "the unsplit model", "compile again with reference=true")
        import_libraries(plan.runtime.imports)
        self._model: Any = torchscript.load(str(path))
        self._plan = plan
        self._fed: deque[tuple[Entry, dict[str, torch.Tensor]]] = deque()
        self._varying = Varying(plan)
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._scale = {spec.name: golden.largest(spec.name) for spec in plan.outputs}
        self.slack = SLACK
        self.outputs = {spec.name: Comparison(plan.golden.tolerance[spec.name] * SLACK) for spec in plan.outputs}

    def watch(self, items: Iterator[Item | Flush]) -> Iterator[Item | Flush]:
        """The same items; keeps a copy of the inputs of those that are not golden items."""
        for item in items:
            if isinstance(item, Item) and item.entry.stream != "golden" and item.entry.error is None:
                self._fed.append((item.entry, {name: _copy(value) for name, value in item.arrays.items()}))
            yield item

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        """`outputs`: tensors without batch dimension.

        Raises:
            UserError: an output differs from the unsplit model's by more than its tolerance; names both.
        """
        fed, inputs = self._fed.popleft()
        assert fed.index == entry.index, f"the result of item {entry.index} came for item {fed.index}"
        kept = {name: value.clone() for name, value in outputs.items()}
        self._waiting.append((entry, inputs, kept))
        self._waiting_bytes += sum(value.nbytes for value in (*inputs.values(), *kept.values()))
        if self._waiting_bytes > BACKLOG_BYTES:
            self.finish()

    def finish(self) -> None:
        """Compares what waits. A short stream is compared after its end, so that it does not slow the stream down."""
        size = self._plan.model.microbatch
        for alike in self._groups():
            for start in range(0, len(alike), size):
                self._compare_batch(alike[start : start + size])
        self._waiting.clear()
        self._waiting_bytes = 0

    def _groups(self) -> list[list[_Waiting]]:
        """What waits, by the items' extents."""
        groups: dict[Extents, list[_Waiting]] = {}
        for waiting in self._waiting:
            groups.setdefault(self._varying.extents(waiting[1]), []).append(waiting)
        return list(groups.values())

    def _compare_batch(self, batch: list[_Waiting]) -> None:
        extents = self._varying.extents(batch[0][1])
        with torch.no_grad():
            expected = self._model(*self._inputs([inputs for _, inputs, _ in batch], extents))
        for index, (entry, _, outputs) in enumerate(batch):
            for spec, values in zip(self._plan.outputs, expected, strict=True):
                self._compare(spec.name, entry, outputs[spec.name], self._varying.cut(spec, values[index], extents))

    def _inputs(self, items: list[dict[str, torch.Tensor]], extents: Extents) -> list[torch.Tensor]:
        """A microbatch of items of the same extents, which has those, and as many items, where the plan allows it."""
        size = self._plan.model.microbatch
        if not self._plan.model.dims:
            rows = [items[min(index, len(items) - 1)] for index in range(size)]
            return [torch.stack([row[spec.name] for row in rows]) for spec in self._plan.inputs]
        sizes = dict(zip(self._plan.model.dims, self._varying.sizes([extents] * len(items)), strict=True))
        batch = []
        for spec in self._plan.inputs:
            tensor = torch.empty(spec.shape_at(sizes), dtype=items[0][spec.name].dtype)
            for index, row in enumerate(tensor):
                value = items[min(index, len(items) - 1)][spec.name]
                fill_row(row, value, self._varying.padding(spec.name))
            batch.append(tensor)
        return batch

    def _compare(self, name: str, entry: Entry, given: torch.Tensor, expected: torch.Tensor) -> None:
        comparison = self.outputs[name]
        if self._plan.lossy and not expected.is_floating_point():
            return  # a lossy wire may turn a close decision
        comparison.num_items += 1
        gap = difference(given, expected)
        largest = scale_of(expected) if expected.is_floating_point() else 0.0
        comparison.max_difference = max(comparison.max_difference, gap)
        comparison.max_value = max(comparison.max_value, largest)
        allowed = comparison.tolerance * max(1.0, largest / self._scale[name] if self._scale[name] else 1.0)
        if not gap <= allowed:
            raise UserError(
                f"not verified: output {name} of item {entry.index} differs from the unsplit model's by {gap:g}, "
                f"{allowed:g} is allowed: a shard or a machine does not compute the same as where the plan was compiled"
            )


def _copy(value: Any) -> torch.Tensor:
    return value.clone() if isinstance(value, torch.Tensor) else torch.from_numpy(value.copy())
