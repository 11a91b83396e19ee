"""Reads the plan's golden file: inputs with the eager model's outputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.common.items import FLUSH, Entry, Flush, Item, Source
from edgelaunch.common.shard_files import check_file

__all__ = ["GoldenFile", "chain"]


class GoldenFile:
    """Reads items of the golden file, one at a time."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Raises UserError where the file is missing, has other bytes than the plan says, or lacks a tensor."""
        self._plan = plan
        path = folder / plan.golden.file
        check_file(path, plan.golden.sha256, "the golden file", "copy it again from where the plan was compiled")
        from safetensors import SafetensorError, safe_open

        try:
            file: Any = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise UserError(f"{path}: not a readable golden file: {error}") from None
        wanted = {f"input.{spec.name}" for spec in plan.inputs} | {f"output.{spec.name}" for spec in plan.outputs}
        missing = wanted - set(file.keys())
        if missing:
            raise UserError(f"{path}: lacks {', '.join(sorted(missing))}: compile the plan again")
        # views of the mapped file, made once: safetensors 0.8 loses 32 bytes at each get_slice that is indexed
        self._tensors: dict[str, Any] = {name: file.get_tensor(name) for name in wanted}

    def items(self) -> Iterator[Item]:
        """Each golden item once, to be compared."""
        for index in range(self._plan.golden.num_items):
            yield Item(Entry(index=index, stream="golden"), self._inputs(index))

    def synthetic(self, count: int) -> Source:
        """`count` items for a run without input: golden inputs in turn, since these are valid for any model.

        Each has memory of its own, as what a real source decodes: what is read here are views of the mapped file.
        """
        numbers = itertools.islice(itertools.cycle(range(self._plan.golden.num_items)), count)
        items = (Item(Entry(index=index), self._copies(number)) for index, number in enumerate(numbers))
        return Source(items=items, num_items=count, what=f"{count} synthetic items")

    def expected(self, name: str, index: int) -> Any:
        """The eager model's output `name` for item `index`, a tensor without batch dimension."""
        return self._tensors[f"output.{name}"][index]

    def largest(self, name: str) -> float:
        """The largest absolute value of the eager model's output `name`; 0 where it holds no floats."""
        values = self._tensors[f"output.{name}"]
        if not values.numel() or not values.is_floating_point():
            return 0.0
        return float(values.nan_to_num().abs().max())

    def _inputs(self, index: int) -> dict[str, Any]:
        return {spec.name: self._tensors[f"input.{spec.name}"][index] for spec in self._plan.inputs}

    def _copies(self, index: int) -> dict[str, Any]:
        return {name: tensor.clone() for name, tensor in self._inputs(index).items()}


def chain(golden: GoldenFile, source: Source | None) -> Iterator[Item | Flush]:
    """Golden items first; no microbatch holds items of both."""
    yield from golden.items()
    if source is not None:
        yield FLUSH
        yield from source.items
