"""Charts: pairs of bars to one scale, and a curve over time with axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from edgecompile.contract.quantities import format_count, format_number

__all__ = ["bars", "curve", "rates_over_time", "ticks"]

WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 36
"""Margins, where the axes' words are."""
MICROBATCHES_A_POINT = 8
MOST_POINTS = 60
"""Of a curve: fewer would hide a pause, more would show each microbatch as a spike."""


def bars(rows: Sequence[tuple[str, float | None, float | None]], unit: str = "ms") -> str:
    """Name, a value, and the value to compare it with (None: none); lengths to one scale."""
    largest = max((value for _, *pair in rows for value in pair if value is not None), default=0.0) or 1.0
    compared = any(other is not None for _, _, other in rows)
    parts = []
    for name, value, other in rows:
        said = f"{format_number(value)} {unit}" if value is not None else "\u2013"
        if other is not None:
            said += f" (predicted {format_number(other)})"
        parts.append(f'<div class="row"><div class="name"><span>{escape(name)}</span><span>{escape(said)}</span></div>')
        for number, kind in ((value, "bar"), (other, "bar predicted")):
            if number is not None:
                parts.append(f'<div class="{kind}" style="width:{100 * number / largest:.2f}%"></div>')
        parts.append("</div>")
    if compared:
        parts.append('<div class="key"><span><i style="background:var(--compute)"></i>measured</span>'
                     '<span><i class="striped"></i>predicted</span></div>')  # fmt: skip
    return "".join(parts)


def rates_over_time(step_s: float, counts: Sequence[int], microbatch: int) -> list[tuple[float, float]]:
    """Seconds and items a second; the last stretch is not whole and is left out.

    A point stands for several microbatches: else one more or less in a stretch would look like a change of speed.
    """
    usual = max(1.0, sum(counts) / len(counts))
    enough = min(len(counts) // 4, math.ceil(MICROBATCHES_A_POINT * microbatch / usual))
    together = max(1, len(counts) // MOST_POINTS, enough)
    step_s *= together
    whole = len(counts[:-1]) // together
    sums = [sum(counts[number * together : (number + 1) * together]) for number in range(whole)] or [sum(counts)]
    return [((number + 0.5) * step_s, count / step_s) for number, count in enumerate(sums)]


def curve(points: Sequence[tuple[float, float]], predicted: float, unit: str = "items/s") -> str:
    """Seconds and a rate: measured as a line, predicted as a dashed one."""
    longest = max(at for at, _ in points) or 1.0
    largest = 1.1 * max([*(rate for _, rate in points), predicted]) or 1.0

    def place(at: float, rate: float) -> tuple[float, float]:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / longest, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / largest

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(at, rate) for at, rate in points))
    level = place(0.0, predicted)[1]
    parts = [
        *_axes(longest, largest, place, unit),
        f'<line class="predicted" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>',
        f'<polyline points="{line}"/>',
    ]
    said = f"measured {unit} over time, predicted {format_number(predicted)}"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">{"".join(parts)}'
        '</svg><div class="key"><span><i class="line"></i>measured</span>'
        f'<span><i class="dash"></i>predicted, {format_number(predicted)} {escape(unit)}</span></div>'
    )


def _axes(
    longest: float, largest: float, place: Callable[[float, float], tuple[float, float]], unit: str
) -> Iterator[str]:
    for value in ticks(largest):
        y = place(0.0, value)[1]
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="soft" text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{_tick(value)}</text>'
    for value in ticks(longest):
        x = place(value, 0.0)[0]
        yield (f'<text class="soft" text-anchor="middle" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}">'
               f"{_tick(value)}</text>")  # fmt: skip
    bottom = HEIGHT - BOTTOM
    yield f'<path class="axis" fill="none" d="M{LEFT} {TOP} V{bottom} H{WIDTH - RIGHT}"/>'
    yield f'<text class="soft" x="{LEFT + 6}" y="{TOP + 10}">{escape(unit)}</text>'
    yield f'<text class="soft" text-anchor="end" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}">seconds</text>'


def ticks(largest: float, about: int = 5) -> list[float]:
    """Round numbers from 0 up to it: of 1, 2 or 5 times a power of ten apart."""
    power = 10.0 ** math.floor(math.log10(largest / about))
    step = next(power * times for times in (1, 2, 5, 10) if largest / (power * times) <= about + 1e-9)
    return [number * step for number in range(int(largest / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    return format_count(int(value)) if value >= 10 or value == int(value) else f"{value:.3g}"
