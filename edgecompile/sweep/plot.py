"""Plots a sweep: throughput and latency over the microbatch, or as bars per job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.contract.quantities import format_number
from edgecompile.sweep.figure_style import COLOURS, GRID, STYLE, new_figure, save_figure, shortened
from edgecompile.sweep.table import common_overrides

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["write_plot"]

_MICROBATCH = "microbatch"
_MARKERS = ("o", "s", "^", "D", "v", "P", "*", "h")
_LONGEST_LABEL = 90
_LONGEST_TICK = 14
_MOST_WORDS = 6
"""So many bars carry their overrides; more carry the job's number."""
_MOST_NAMED = 16
"""So many series are in the legend; the table tells the others apart."""
_WIDTH, _HEIGHT, _LEGEND_ROW = 8.0, 6.2, 0.22
"""Inches."""


@dataclass(frozen=True)
class _Point:
    """One job at its place on the x axis."""

    place: int
    throughput: float | None
    """None, as the latency: no plan."""
    latency_s: float | None


def write_plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes a PDF, PNG or SVG, the same bytes for the same rows. At least one row has a plan."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(_WIDTH, _HEIGHT)
        shared = common_overrides(rows)
        figure.suptitle(shortened(" ".join(shared), _LONGEST_LABEL) or "sweep", x=0.01, ha="left", fontsize=10)
        microbatches = [_microbatch(row["overrides"]) for row in rows]
        swept = [value for value in microbatches if value is not None]
        if len(swept) == len(rows) and len(set(swept)) > 1:
            _lines(figure, rows, swept)
        else:
            _bars(figure, rows)
        save_figure(figure, path)


def _microbatch(overrides: Sequence[str]) -> int | None:
    for word in overrides:
        value = word.partition("=")[2]
        if _is_microbatch(word) and value.lstrip("-").isdecimal():
            return int(value)
    return None


def _is_microbatch(word: str) -> bool:
    return word.partition("=")[0].lstrip("+") == "microbatch"


def _lines(figure: Figure, rows: Sequence[Mapping[str, Any]], microbatches: Sequence[int]) -> None:
    """A line for each combination of the other overrides; microbatches stand at equal distances."""
    values = sorted(set(microbatches))
    shared = set(common_overrides(rows))
    series: dict[str, list[_Point]] = {}
    for row, microbatch in zip(rows, microbatches, strict=True):
        name = " ".join(word for word in row["overrides"] if word not in shared and not _is_microbatch(word))
        series.setdefault(name, []).append(_point(row, values.index(microbatch)))
    panels = figure.subplots(2, 1, sharex=True)
    handles: dict[str, Artist] = {}
    for axis, unit in zip(panels, _units(rows), strict=True):
        for number, (name, points) in enumerate(series.items()):
            colour = COLOURS[number % len(COLOURS)]
            marker = _MARKERS[number % len(_MARKERS)]
            done = sorted((point.place, height) for point in points if (height := unit.of(point)) is not None)
            # the first ones are wider, so that lines on top of each other are all seen
            (handles[name],) = axis.plot(
                [place for place, _ in done], [height for _, height in done], color=colour, marker=marker,
                linewidth=max(1.4, 4.4 - 1.5 * number), markersize=max(5, 10 - 2.5 * number),
                linestyle="-" if number < len(COLOURS) else "--",
            )  # fmt: skip
            _cross(axis, [point.place for point in points if unit.of(point) is None], colour)
        _finish(axis, unit, rows)
    panels[1].set_xticks(range(len(values)), [str(value) for value in values])
    panels[1].set_xlim(-0.3, len(values) - 0.7)
    panels[1].set_xlabel("microbatch (items that travel together)")
    if list(handles) != [""]:
        _legend(figure, handles)


def _bars(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    """A bar for each job, under its overrides where those are few and short, else under its number."""
    points = [_point(row, place) for place, row in enumerate(rows)]
    panels = figure.subplots(2, 1, sharex=True)
    for axis, unit in zip(panels, _units(rows), strict=True):
        axis.bar(range(len(points)), [unit.of(point) or 0.0 for point in points], width=0.6, color=COLOURS[0])
        _cross(axis, [point.place for point in points if unit.of(point) is None], COLOURS[1])
        _finish(axis, unit, rows)
    shared = set(common_overrides(rows))
    names = ["\n".join(word for word in row["overrides"] if word not in shared) for row in rows]
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    if len(rows) <= _MOST_WORDS and longest <= _LONGEST_TICK:
        panels[1].set_xticks(range(len(rows)), names)
    else:
        places = range(0, len(rows), -(-len(rows) // _MOST_NAMED))
        panels[1].set_xticks(places, [str(rows[place]["job"]) for place in places])
        panels[1].set_xlabel("job, as in the table")
    spare = max(0.0, 4 - len(rows)) / 2  # one bar alone is not a wall
    panels[1].set_xlim(-0.7 - spare, len(rows) - 0.3 + spare)


@dataclass(frozen=True)
class _Unit:
    label: str
    scale: float
    field: str

    def of(self, point: _Point) -> float | None:
        value: float | None = getattr(point, self.field)
        return None if value is None else value * self.scale


def _units(rows: Sequence[Mapping[str, Any]]) -> tuple[_Unit, _Unit]:
    """What the upper and the lower panel show."""
    longest_s = max(row["latency_s"] for row in rows if row["error"] is None)
    scale, unit = (1e3, "ms") if longest_s < 1 else (1.0, "s")
    return (
        _Unit("throughput (items/s)", 1.0, "throughput"),
        _Unit(f"latency of a microbatch ({unit})", scale, "latency_s"),
    )


def _point(row: Mapping[str, Any], place: int) -> _Point:
    if row["error"] is not None:
        return _Point(place, None, None)
    return _Point(place, row["throughput_items_per_s"], row["latency_s"])


def _cross(axis: Axes, places: Sequence[int], colour: str) -> None:
    """Points without a plan stand on the axis."""
    if places:
        axis.plot(places, [0.0] * len(places), "x", color=colour, markersize=9, markeredgewidth=2, clip_on=False)
        axis.annotate("x: no plan", (1.0, 1.0), xycoords="axes fraction", ha="right", va="bottom", fontsize=9)


def _finish(axis: Axes, unit: _Unit, rows: Sequence[Mapping[str, Any]]) -> None:
    heights = [height for row in rows if (height := unit.of(_point(row, 0))) is not None]
    axis.set_ylim(0.0, 1.08 * max(heights))
    axis.set_ylabel(unit.label)
    axis.yaxis.set_major_formatter(lambda value, _: format_number(value))
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, handles: Mapping[str, Artist]) -> None:
    names = list(handles)[:_MOST_NAMED]
    longest = max(len(name) for name in names)
    columns = 3 if longest <= 24 else 2 if longest <= 40 else 1
    rows = -(-len(names) // columns)
    figure.set_size_inches(_WIDTH, _HEIGHT + _LEGEND_ROW * rows)
    more = len(handles) - len(names)
    figure.legend(
        [handles[name] for name in names], [shortened(name, _LONGEST_LABEL) or "as they are" for name in names],
        loc="outside lower left", ncols=columns, frameon=False, fontsize=9, alignment="left",
        title=f"and {more} more, as in the table" if more else None,
    )  # fmt: skip
