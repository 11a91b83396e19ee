"""The live view of a run on a terminal: one row per stage, and the overall progress."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edgecompile.contract.quantities import format_items_rate, format_rate
from edgelaunch.control.pace import Overview, Pace

__all__ = ["draw"]

BAR_WIDTH, TOTAL_WIDTH = 24, 60


def draw(overview: Overview | None, done: int, total: int | None, rate: float) -> RenderableType:
    """`done` items of `total`, where that is known; `rate` in items a second."""
    parts: list[RenderableType] = [_stages(overview)] if overview is not None else []
    words = [f"{done:,}" + (f" of {total:,}" if total is not None else "") + " items"]
    words.append(format_items_rate(rate))
    if overview is not None:
        words.append(f"{overview.num_in_flight} in flight")
    if total is not None and rate > 0:
        words.append(f"{_clock(max(0, total - done) / rate)} left")
    parts.append(Text("  ".join(words), no_wrap=True, overflow="ellipsis"))
    if total is not None:
        parts.append(ProgressBar(total=max(1, total), completed=done, width=TOTAL_WIDTH))
    return Group(*parts)


def _stages(overview: Overview) -> Table:
    plan = overview.plan
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("stage", "host", "busy", "", "receives"):
        table.add_column(name, justify="right" if name in ("stage", "receives") else "left", no_wrap=True)
    for stage in plan.stages:
        host = plan.hosts[stage.rank].name
        pace = overview.paces.get(stage.rank)
        if pace is None:
            table.add_row(str(stage.stage), host, Text("not there", style="red"), "", "")
            continue
        busy = pace.busy
        bar = ProgressBar(total=1.0, completed=busy or 0.0, width=BAR_WIDTH)
        table.add_row(str(stage.stage), host, bar, f"{busy:.0%}" if busy is not None else "", _receives(pace))
    return table


def _receives(pace: Pace) -> str:
    rate = pace.received_bytes_per_s
    return format_rate(rate) if rate else ""


def _clock(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
