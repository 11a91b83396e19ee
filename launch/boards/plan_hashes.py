"""The files of a plan that rank 0 needs, or gives to the others, with their hashes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from edgecompile.contract.plan import Plan

__all__ = ["hashes_of"]


def hashes_of(plan: Plan) -> Iterator[tuple[str, str]]:
    """Every file of the plan that has a hash, by its path below the plan's folder, as rank 0 needs them."""
    for stages in (plan.stages, *(item.stages for item in plan.contingencies)):
        for stage in stages:
            yield from stage.files
    yield plan.golden.file, plan.golden.sha256
    if plan.golden.reference is not None and plan.golden.reference_sha256 is not None:
        yield plan.golden.reference, plan.golden.reference_sha256
    for text in (plan.generation, plan.data.text):
        if text is not None and text.tokenizer is not None and text.sha256 is not None:
            yield text.tokenizer, text.sha256
