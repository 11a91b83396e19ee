"""Interpolates what was measured of a model's units between the sizes at which it was."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgecompile.config.cluster_spec import Device
from edgecompile.frontend.chain.sized_work import SizedWork
from edgecompile.profile.analytic import roofline_s
from edgecompile.profile.profile_file import DeviceProfile, MicrobatchProfile

__all__ = ["SizeGrid"]

Values = NDArray[np.float64]


class SizeGrid:
    """The figures of a profile with several extents, at any microbatch and extent.

    Between two extents a unit's figure grows as its work does (linear in the extent, or as its square in attention),
    and between two microbatches on a line: so what is a constant beside work is met exactly, and what was measured
    always. Outside, the nearest size that was measured counts, times what the roofline makes of the difference. What
    attention to kept keys and values takes longer, where a slot holds more tokens than usual, is linear in these.
    """

    def __init__(self, found: DeviceProfile, work: SizedWork, device: Device) -> None:
        """`found`: with extents. `work`: of the same units."""
        assert found.extents, "a profile of one extent"
        self._found, self._work, self._device = found, work, device
        self._entries = {(item.microbatch, item.extent): item for item in found.microbatches}

    def contains(self, batch: int, extent: int) -> bool:
        sizes = self._found.sizes
        if not sizes[0] <= batch <= sizes[-1]:
            return False
        extents = self._found.extents_of(_neighbours(batch, sizes)[1])
        return extents[0] <= extent <= extents[-1]

    def longer_s(self, batch: int, extent: int, tokens: Values) -> Values:
        """What each unit takes longer where slots hold so many tokens more than when it was measured, below 0: fewer.

        Args:
            tokens: for each unit.
        """
        if not all(item.context_s for item in self._found.microbatches):
            return np.zeros(len(self._found.units))
        result: Values = tokens * self.at(batch, extent, lambda item: item.context_s)
        return result

    def at(self, batch: int, extent: int, values: Callable[[MicrobatchProfile], Sequence[float]]) -> Values:
        """Of each unit; `values` gives them at a measured size."""
        rows = _within(batch, self._found.sizes)
        low, high = _neighbours(rows, self._found.sizes)
        near = rows, _within(extent, self._found.extents_of(high))
        below, above = (self._along(size, near[1], values) for size in (low, high))
        inside = below if low == high else below + (above - below) * (near[0] - low) / (high - low)
        return inside if near == (batch, extent) else inside * self._growth(near, (batch, extent))

    def _along(self, batch: int, extent: int, values: Callable[[MicrobatchProfile], Sequence[float]]) -> Values:
        """At a measured microbatch."""
        low, high = _neighbours(extent, self._found.extents_of(batch))
        below, above = (np.array(values(self._entries[batch, end]), dtype=float) for end in (low, high))
        if low == high:
            return below
        least, own, most = (self._units_work(batch, point) for point in (low, extent, high))
        grows = most > least
        part = np.where(grows, (own - least) / np.where(grows, most - least, 1.0), (extent - low) / (high - low))
        result: Values = below + (above - below) * part.clip(0.0, 1.0)
        return result

    def _units_work(self, batch: int, extent: int) -> Values:
        """Operations; bytes where a unit computes nothing."""
        flops = self._work.flops_at(batch, extent)
        return np.where(flops > 0, flops, self._work.moved_bytes_at(batch, extent))

    def _growth(self, near: tuple[int, int], wanted: tuple[int, int]) -> Values:
        """For each unit its roofline at this size over that at the measured one."""
        own, other = (
            np.array([roofline_s(flops, moved, self._device) for flops, moved in zip(*pair, strict=True)])
            for pair in ((self._work.flops_at(*size), self._work.moved_bytes_at(*size)) for size in (wanted, near))
        )
        result: Values = own / other
        return result


def _within(value: int, measured: Sequence[int]) -> int:
    return min(max(value, measured[0]), measured[-1])


def _neighbours(value: int, measured: Sequence[int]) -> tuple[int, int]:
    """The measured sizes on both sides; both the value itself where it was measured."""
    place = bisect_left(measured, value)
    return (value, value) if measured[place] == value else (measured[place - 1], measured[place])
