"""Chooses the sizes that profile=auto measures, so that it ends in time: as many of the plan's own as it can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecompile.measure.rounds import Span
from edgecompile.measure.sizes import MeasuredSize, grid_of
from edgecompile.profile.kept_profiles import AskedSizes
from edgecompile.profile.profile_file import Rates

__all__ = ["QuickSizes", "WorkAt", "choose_sizes", "grids_of"]

WorkAt = Callable[[MeasuredSize], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Operations and bytes of each unit at a size."""

_STEPS = (2, 4)
"""From one measured microbatch to the next, where there is time and where there is not: products of 80 rows may take
more than those of 64 and 176 rows tell."""
_MIDDLE = 6
"""An extent between is measured where the largest is so many times the least."""
_LAUNCH_S = 6e-6
_REPEATS = 12
"""A measurement of three rounds takes about so many times one round: what is traced, warmed up and weighed before."""


@dataclass(frozen=True, kw_only=True)
class QuickSizes:
    sizes: tuple[MeasuredSize, ...]
    entire: bool
    """Whether there is time for all units together too."""
    takes_s: float
    """Of the least number of rounds, as estimated."""

    @property
    def microbatch(self) -> int:
        """The largest."""
        return max(size.microbatch for size in self.sizes)


def choose_sizes(
    grids: Iterable[tuple[MeasuredSize, ...]], work: WorkAt, spans: Sequence[Span], rates: Rates, limit_s: float
) -> QuickSizes | None:
    """The first of the grids that is measured in time; None: none is."""
    for sizes in grids:
        for entire in (True, False):
            takes_s = _REPEATS * sum(_round_s(size, work, spans, rates, entire=entire) for size in sizes)
            if takes_s <= limit_s:
                return QuickSizes(sizes=sizes, entire=entire, takes_s=takes_s)
    return None


def _round_s(size: MeasuredSize, work: WorkAt, spans: Sequence[Span], rates: Rates, *, entire: bool) -> float:
    """Of all spans once, as far as the rates of the machine tell."""
    flops, moved = work(size)
    each_s = flops / rates.matrix_flops_per_s + moved / rates.memory_bytes_per_s + _LAUNCH_S
    total_s = 0.0
    for span in spans:
        own_s = float(np.sum(each_s[span.first : span.last + 1]))
        if span.atoms:
            total_s += 2 * own_s
        elif not span.entire:
            total_s += own_s / 3
        elif entire:
            total_s += own_s
    return total_s


def grids_of(asked: AskedSizes, dim: str | None, positions: int | None = None) -> Iterator[tuple[MeasuredSize, ...]]:
    """Of a chain whose sizes vary, from the most to the least: large microbatches matter most, then extents between.

    Args:
        dim: whose extents are asked for; None: only the batch varies.
        positions: as for grid_of.
    """
    whole = _extents(asked)
    fewer = dict.fromkeys([whole, (*whole[:1], *whole[-1:]), whole[-1:]])
    most = asked.microbatch
    while True:
        for extents, step in ((extents, step) for extents in fewer for step in _STEPS):
            yield tuple(grid_of(_microbatches(most, step), dim, sorted(set(extents)), positions))
        if most == 1:
            return
        most = max(1, most // 2)


def _microbatches(most: int, step: int) -> tuple[int, ...]:
    sizes = {1, most}
    while most > step:
        most //= step
        sizes.add(most)
    return tuple(sorted(sizes))


def _extents(asked: AskedSizes) -> tuple[int, ...]:
    least, most = asked.least, asked.most
    if most < _MIDDLE * least:
        return (least, most) if least < most else (most,)
    return least, round((least * most) ** 0.5), most
