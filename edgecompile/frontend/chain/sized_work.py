"""Counts what units do at any size: operations and bytes, as functions of the batch and of one other extent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgecompile.contract.dim_rules import BATCH
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

    def flops_at(self, batch: int, extent: int) -> Values:
        """Of every unit."""
        return self._at(self.flops, batch, extent)

    def moved_bytes_at(self, batch: int, extent: int) -> Values:
        return self._at(self.moved_bytes, batch, extent)

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
    return SizedWork(dim=dim, extents=extents, flops=flops, moved_bytes=moved)


def _three(least: int, most: int) -> tuple[int, ...]:
    return tuple(sorted({least, (least + most) // 2, most}))
