"""`edgeplan figure`: a plan, several plans or a sweep as PDF, PNG or SVG, for papers and slides."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.contract.quantities import format_items_rate, format_number, format_time
from edgecompile.explore.compare import plan_row, short_names
from edgecompile.explore.output import check_output
from edgecompile.explore.report import read_sweep
from edgecompile.explore.timeline.stage_timeline import (
    COMPUTE,
    PACK,
    SEND,
    WAIT_INPUT,
    WAIT_SEND,
    Row,
    simulated_rows,
)
from edgecompile.planning.from_plan import as_planned
from edgecompile.sweep.figure_style import (
    COLOURS,
    GRID,
    HATCHES,
    STYLE,
    check_figure,
    new_figure,
    save_figure,
    shortened,
)
from edgecompile.sweep.plot import write_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["add_options", "draw_plan", "draw_plans", "run"]

MOST_DRAWN = 100
_WIDTH = 8.0
_LOOKS = {COMPUTE: (COLOURS[0], ""), SEND: (COLOURS[1], "///"), PACK: (COLOURS[2], "..."),
          WAIT_INPUT: ("#eeeeee", ""), WAIT_SEND: (COLOURS[3], "xxx")}  # fmt: skip
"""Colour and hatch: told apart in grey, too."""
_LONGEST_NAME = 28


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", nargs="+", metavar="PLAN",
                        help="a plan.yaml: its stages and timeline; several: side by side; a multirun's folder: its "
                        "sweep")  # fmt: skip
    parser.add_argument("--output", required=True, metavar="FILE", help="the figure: FILE.pdf, FILE.png or FILE.svg")
    parser.add_argument("--microbatches", type=int, default=8, metavar="N", help="in the timeline (%(default)s)")


def run(chosen: argparse.Namespace) -> int:
    """The command's body."""
    output = Path(chosen.output)
    if not 1 <= chosen.microbatches <= MOST_DRAWN:
        raise UserError(f"invalid value {chosen.microbatches} for --microbatches: expected 1 to {MOST_DRAWN}")
    check_figure(output)
    check_output(output, "figure.pdf", "--output", [(Path(path), "a plan of the figure") for path in chosen.plan])
    if len(chosen.plan) == 1 and Path(chosen.plan[0]).is_dir():
        what = "sweep"
        jobs = read_sweep(Path(chosen.plan[0]))
        if not any(job["latency_s"] for job in jobs):
            raise UserError(f"{chosen.plan[0]}: a sweep without a plan")
        write_plot([{**job, "throughput_items_per_s": job["throughput"]} for job in jobs], output)
    elif len(chosen.plan) == 1:
        what = "plan"
        draw_plan(read_plan(chosen.plan[0]), output, chosen.microbatches)
    else:
        what = "comparison"
        draw_plans([read_plan(path) for path in chosen.plan], short_names(chosen.plan), output)
    if chosen.json:
        print(json.dumps({"figure": str(output), "of": what}))
    elif not chosen.quiet:
        print(f"figure: {output}")
    return 0


def draw_plan(plan: Plan, path: Path, num_microbatches: int) -> None:
    """Above what each stage and link takes of a microbatch, beside the period; below the first microbatches."""
    import matplotlib

    rows = simulated_rows(plan, num_microbatches)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(_WIDTH, 1.9 + 0.6 * len(rows))
        figure.suptitle(_title(plan), x=0.01, ha="left", fontsize=10)
        shares, times = figure.subplots(2, 1)
        _draw_shares(shares, plan)
        _draw_timeline(times, rows)
        save_figure(figure, path)


def _title(plan: Plan) -> str:
    predicted = plan.predicted
    name = shortened(plan.model.name, _LONGEST_NAME)
    return (
        f"{name}, microbatch {plan.model.microbatch}, schedule {plan.scheduling.method}: "
        f"{format_items_rate(predicted.throughput_items_per_s)}, period {format_time(predicted.period_s)}, "
        f"latency {format_time(predicted.latency_s)}"
    )


def _draw_shares(axis: Axes, plan: Plan) -> None:
    """A bar for each stage, and for the link that its results take."""
    schedule = as_planned(plan)[1]
    ends = [*(stage.host for stage in schedule.stages), 0]
    names, lengths, kinds = list[str](), list[float](), list[str]()

    def add(name: str, seconds: float, kind: str) -> None:
        names.append(shortened(name, _LONGEST_NAME))
        lengths.append(seconds)
        kinds.append(kind)

    if schedule.stages[0].host != 0:
        add(f"{plan.cluster[0]} → {plan.cluster[ends[0]]}", schedule.stages[0].receive_s, SEND)
    for stage, following in zip(schedule.stages, ends[1:], strict=True):
        add(f"{plan.cluster[stage.host]}: units {stage.first}-{stage.last}", stage.compute_s, COMPUTE)
        if following != stage.host:
            add(f"{plan.cluster[stage.host]} → {plan.cluster[following]}", stage.send_s, SEND)
    scale, unit = _time_unit(max(lengths))
    for kind in (COMPUTE, SEND):
        places = [place for place, own in enumerate(kinds) if own == kind]
        colour, hatch = _LOOKS[kind]
        axis.barh(places, [lengths[place] * scale for place in places], height=0.6, color=colour, hatch=hatch,
                  edgecolor="white", label=kind)  # fmt: skip
    axis.axvline(schedule.period_s * scale, color=COLOURS[6], linestyle="--", linewidth=1.2, label="period")
    _finish(axis, names, f"time of a microbatch ({unit})")


def _draw_timeline(axis: Axes, rows: Sequence[Row]) -> None:
    scale, unit = _time_unit(max(span.end_s for row in rows for span in row.spans))
    named = set[str]()
    for place, row in enumerate(rows):
        for span in row.spans:
            if span.what not in _LOOKS:
                continue
            colour, hatch = _LOOKS[span.what]
            label = None if span.what in named else span.what
            named.add(span.what)
            axis.barh(place, (span.end_s - span.begin_s) * scale, left=span.begin_s * scale, height=0.7, color=colour,
                      hatch=hatch, edgecolor="white", linewidth=0.3, label=label)  # fmt: skip
    names = [shortened(row.name.replace("->", "→"), _LONGEST_NAME) for row in rows]
    _finish(axis, names, f"time ({unit}), simulated")


def _time_unit(longest_s: float) -> tuple[float, str]:
    return (1.0, "s") if longest_s >= 1 else (1e3, "ms") if longest_s >= 1e-3 else (1e6, "µs")


def _finish(axis: Axes, names: Sequence[str], label: str) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel(label)
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False, fontsize=9, borderaxespad=0.2)


def draw_plans(plans: Sequence[Plan], names: Sequence[str], path: Path) -> None:
    """Throughput, latency and memory of each plan; colours are the schedulers."""
    import matplotlib

    rows = [plan_row(plan) for plan in plans]
    methods = list(dict.fromkeys(row["scheduler"] for row in rows))
    scale, unit = _time_unit(max(row["latency_s"] for row in rows))
    panels: list[tuple[str, str, float]] = [
        ("throughput (items/s)", "throughput_items_per_s", 1.0),
        (f"latency ({unit})", "latency_s", scale),
        ("largest memory of a stage (MB)", "most_memory_bytes", 1e-6),
    ]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(_WIDTH, 1.8 + 0.32 * len(rows))
        models = ", ".join(dict.fromkeys(f"{row['model']}, microbatch {row['microbatch']}" for row in rows))
        figure.suptitle(shortened(models, 90), x=0.01, ha="left", fontsize=10)
        axes: Any = figure.subplots(1, 3, sharey=True)
        for axis, (label, field, factor) in zip(axes, panels, strict=True):
            for number, method in enumerate(methods):
                places = [place for place, row in enumerate(rows) if row["scheduler"] == method]
                bars = axis.barh(places, [rows[place][field] * factor for place in places], height=0.7, label=method,
                                 color=COLOURS[number % len(COLOURS)], hatch=HATCHES[number // len(COLOURS) % 4],
                                 edgecolor="white")  # fmt: skip
                axis.bar_label(bars, fmt=format_number, padding=2, fontsize=8)
            axis.set_xlabel(label)
            axis.margins(x=0.25)
            axis.grid(axis="x", color=GRID, linewidth=0.8)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_yticks(range(len(rows)), [shortened(name, _LONGEST_NAME) for name in names])
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=6, frameon=False, fontsize=9, title="schedule",
                      alignment="left")  # fmt: skip
        save_figure(figure, path)
