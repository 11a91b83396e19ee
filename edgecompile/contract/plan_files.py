"""Lists the files that a plan is made of, so that no command overwrites them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecompile.contract.plan import Plan

__all__ = ["files_of_plan"]


def files_of_plan(plan: Plan, path: Path) -> Iterator[tuple[Path, str]]:
    """The plan and all files that it names, each with what it is."""
    yield path, "the plan"
    folder = path.resolve().parent
    for stages in (plan.stages, *(item.stages for item in plan.contingencies)):
        for stage in stages:
            for name, _ in stage.files:
                yield folder / name, "a shard of the plan" if name == stage.shard else "weights of the plan"
    yield folder / plan.golden.file, "the plan's golden file"
    if plan.golden.reference is not None:
        yield folder / plan.golden.reference, "the plan's reference"
    if plan.data.text is not None and plan.data.text.tokenizer is not None:
        yield folder / plan.data.text.tokenizer, "the plan's tokenizer"
