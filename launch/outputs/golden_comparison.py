"""Compares the pipeline's results for the golden items with the eager model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.execution import closeness
from edgelaunch.common.items import Entry
from edgelaunch.outputs.golden import GoldenFile

__all__ = ["Comparison", "Verifier", "difference"]


@dataclass
class Comparison:
    """One output over all golden items."""

    tolerance: float
    num_items: int = 0
    max_difference: float = 0.0
    max_value: float = 0.0


class Verifier:
    """Fed each golden item's outputs; stops at the first difference."""

    def __init__(self, plan: Plan, golden: GoldenFile) -> None:
        self._plan, self._golden = plan, golden
        self.outputs = {spec.name: Comparison(plan.golden.tolerance[spec.name]) for spec in plan.outputs}

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        """`outputs`: tensors without batch dimension.

        Raises:
            UserError: an output differs by more than its tolerance; names output, item, difference and tolerance.
        """
        for name, comparison in self.outputs.items():
            expected = self._golden.expected(name, entry.index)
            gap = difference(outputs[name], expected)
            comparison.num_items += 1
            comparison.max_difference = max(comparison.max_difference, gap)
            if expected.numel() and expected.is_floating_point():
                comparison.max_value = max(comparison.max_value, float(expected.nan_to_num().abs().max()))
            if not gap <= comparison.tolerance:
                raise UserError(
                    f"not verified: output {name} of golden item {entry.index} differs from the model's by "
                    f"{gap:g}, the plan allows {comparison.tolerance:g}: a shard or a machine computes "
                    "other results than the machine that compiled the plan"
                )


def difference(given: torch.Tensor, expected: torch.Tensor) -> float:
    """closeness.difference; infinite where shapes differ."""
    if given.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    if not expected.is_floating_point():
        return 0.0 if torch.equal(given, expected.to(given.dtype)) else float("inf")
    return closeness.difference(given, expected)
