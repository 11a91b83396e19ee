"""Counts what units do at any size: operations and bytes, as functions of the batch and of one other extent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.generation import StateSpec
from edgecompile.frontend.capture.graphs import facts_of, op_name
from edgecompile.frontend.chain.kept_state import seen_context, state_of, usual_context
from edgecompile.frontend.chain.units import Chain, unit_work

__all__ = ["SizedWork", "sized_work"]

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SizedWork:
    """Each is a polynomial: linear in the batch, quadratic in the extent, as attention is."""

    dim: str | None
    """The dimension whose extent it is; None: only the batch varies."""
    extents: tuple[int, ...]
    """Three, at which the work was counted."""
    flops: Values
    """By the unit, the batch (2 and 4) and the extent."""
    moved_bytes: Values
    state: tuple[StateSpec, ...] = ()
    context_flops: Mapping[int, int] = field(default_factory=dict)
    """By unit: of each of a row's tokens, for each token that its slot holds."""
    usual_context: int = 0
    """Tokens that slots hold where the work was counted."""

    def flops_at(self, batch: int, extent: int, contexts: Sequence[int] = ()) -> Values:
        """Of every unit.

        Args:
            contexts: the tokens that slots hold, in cases that are each as likely; none: the usual.
        """
        more = self._more_seen(contexts)
        own = {unit: batch * extent * more[unit] * each for unit, each in self.context_flops.items()}
        return self._with(self._at(self.flops, batch, extent), own)

    def moved_bytes_at(self, batch: int, extent: int, contexts: Sequence[int] = ()) -> Values:
        """As flops_at."""
        more = self._more_seen(contexts)
        own = {spec.unit: batch * more[spec.unit] * spec.token_bytes for spec in self.state}
        return self._with(self._at(self.moved_bytes, batch, extent), own)

    def _more_seen(self, contexts: Sequence[int]) -> dict[int, float]:
        """By unit: the tokens that it sees beyond those of the usual context."""
        usual = self.usual_context
        return {
            spec.unit: float(np.mean([seen_context(item, spec.window) for item in contexts or (usual,)]))
            - seen_context(usual, spec.window)
            for spec in self.state
        }

    def _with(self, counted: Values, more: Mapping[int, float]) -> Values:
        for unit, value in more.items():
            counted[unit] = max(0.0, counted[unit] + value)
        return counted

    def _at(self, counted: Values, batch: int, extent: int) -> Values:
        weights = np.array([_lagrange(self.extents, index, extent) for index in range(len(self.extents))])
        two, four = counted[:, 0] @ weights, counted[:, 1] @ weights
        found: Values = np.maximum(two + (four - two) * (batch - 2) / 2, 0.0)
        return found


def _lagrange(points: Sequence[int], index: int, at: int) -> float:
    value = 1.0
    for other, point in enumerate(points):
        if other != index:
            value *= (at - point) / (points[index] - point)
    return value


def sized_work(chain: Chain, examples: Sequence[torch.Tensor], dim: str | None) -> SizedWork:
    """Counts the work at six sizes. The chain's sizes vary, in `dim` and the batch alone."""
    sampling, graph_module = chain.captured.sampling, chain.captured.graph_module
    assert sampling is not None
    extents = (1,) if dim is None else _three(max(2, sampling.dims[dim].min), sampling.dims[dim].max)
    flops = np.zeros((len(chain.units), 2, len(extents)))
    moved = np.zeros_like(flops)
    for row, batch in enumerate((2, 4)):
        for column, extent in enumerate(extents):
            sizes: Mapping[str, int] = {**sampling.largest, BATCH: batch, **({dim: extent} if dim else {})}
            sampling.propagate_at(graph_module, examples, sizes)
            for index, unit in enumerate(chain.units):
                flops[index, row, column], moved[index, row, column] = unit_work(unit.nodes)
    sampling.propagate_at(graph_module, examples, sampling.largest)
    return SizedWork(
        dim=dim, extents=extents, flops=flops, moved_bytes=moved, state=state_of(chain),
        context_flops=_context_flops(chain), usual_context=usual_context(chain),
    )  # fmt: skip


def _context_flops(chain: Chain) -> dict[int, int]:
    """As capture.graphs counts attention: two products, a multiplication and an addition each."""
    found: dict[int, int] = {}
    for unit in chain.units:
        for node in unit.nodes:
            if op_name(node) == "attend":
                query, value = (facts_of(item)[0].shape for item in (node.args[0], node.args[2]))  # type: ignore[arg-type]
                found[unit.index] = found.get(unit.index, 0) + 2 * query[1] * (query[-1] + value[-1])
    return found


def _three(least: int, most: int) -> tuple[int, ...]:
    return tuple(sorted({least, (least + most) // 2, most}))
