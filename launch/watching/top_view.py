"""A pipeline's state on a terminal: its figures, a row a host, a row a link, what happened. Imports no torch."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edgecompile.contract.quantities import format_bytes, format_items_rate, format_number, format_rate, format_time
from edgelaunch.control.pipeline_state import ABSENT, HostState, LinkState, PipelineState

__all__ = ["draw", "line_of", "status_of"]

BAR_WIDTH, SHOWN_EVENTS = 16, 6
NOTHING = "\u2013"
STYLES = {"lost": "red", "awaited": "yellow", "joining": "yellow"}


def draw(state: PipelineState) -> RenderableType:
    parts: list[RenderableType] = [_figures(state), Text(), _hosts(state)]
    if state.links:
        parts += [Text(), _links(state)]
    if state.bottleneck or state.predicted_bottleneck:
        now = state.bottleneck or "nothing holds it back now"
        parts += [Text(), Text(f"bottleneck: {now}; predicted: {state.predicted_bottleneck}", overflow="fold")]
    if state.events:
        parts.append(Text())
        parts += [Text(f"{_clock(event.at)}  {event.text}", overflow="fold") for event in state.events[-SHOWN_EVENTS:]]
    return Group(*parts)


def line_of(state: PipelineState) -> str:
    """The same in one line, for logs."""
    latency = f", latency {format_time(state.latency.p50_s)}" if state.latency is not None else ""
    shares = [f"{host.name} {host.busy:.0%}" for host in state.hosts if host.busy is not None]
    busy = f", busy: {', '.join(shares)}" if shares else ""
    return (f"{_clock(state.at)} {state.model}: {status_of(state)}, {_rate(state)} (predicted "
            f"{format_number(state.predicted_per_s, 3)}){latency}, {state.num_in_flight} in flight{busy}")  # fmt: skip


def status_of(state: PipelineState) -> str:
    if state.ended:
        return "done"
    missing = [f"{host.name} {host.state}" for host in state.hosts if host.state in STYLES]
    if missing:
        return ", ".join(missing) + ("" if state.ready else ": waiting")
    return "running" if state.ready else "the ranks connect"


def _figures(state: PipelineState) -> Table:
    latency = state.latency
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_row(Text(state.model, style="bold"), Text(status_of(state)), f"{state.num_items:,} {state.unit}",
                  f"{state.num_in_flight} in flight", f"{state.num_present} of {len(state.hosts)} ranks")  # fmt: skip
    table.add_row("measured", _rate(state), "latency", format_time(latency.p50_s) if latency is not None else NOTHING,
                  f"p95 {format_time(latency.p95_s)}" if latency is not None else "")  # fmt: skip
    table.add_row("predicted", format_items_rate(state.predicted_per_s, 3, state.unit), "",
                  format_time(state.predicted_latency_s), "")  # fmt: skip
    return table


def _hosts(state: PipelineState) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("rank", "host", "stage", "busy", "", "predicted", "memory", "planned", "lost", "came again"):
        table.add_column(name, justify="left" if name in ("host", "busy") else "right", no_wrap=True)
    for host in state.hosts:
        table.add_row(*_host(host))
    return table


def _host(host: HostState) -> list[RenderableType]:
    name = Text(host.name, style="bold" if host.bottleneck else "")
    if host.bottleneck:
        name.append(" <- bottleneck")
    stage = str(host.stage) if host.stage is not None else NOTHING
    counts = [str(host.num_lost or ""), str(host.num_restarts or "")]
    planned = format_bytes(host.predicted_memory_bytes) if host.predicted_memory_bytes else ""
    predicted = f"{host.predicted_busy:.0%}" if host.predicted_busy is not None else ""
    if host.state in ABSENT:
        gone = Text(host.state, style=STYLES[host.state])
        return [str(host.rank), name, stage, gone, "", predicted, "", planned, *counts]
    busy = "" if host.busy is None or host.stage is None else f"{host.busy:.0%}"
    bar: RenderableType = ProgressBar(total=1.0, completed=host.busy or 0.0, width=BAR_WIDTH) if busy else ""
    if host.state in STYLES:
        bar = Text(host.state, style=STYLES[host.state])
    memory = format_bytes(host.memory_bytes) if host.memory_bytes else NOTHING
    return [str(host.rank), name, stage, bar, busy, predicted, memory, planned, *counts]


def _links(state: PipelineState) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("link", "carries", "predicted", "of", "used"):
        table.add_column(name, justify="left" if name == "link" else "right", no_wrap=True)
    for link in state.links:
        table.add_row(*_link(state, link))
    return table


def _link(state: PipelineState, link: LinkState) -> list[RenderableType]:
    names = {host.rank: host.name for host in state.hosts}
    name = Text(f"{names[link.source]} -> {names[link.destination]}", style="bold" if link.bottleneck else "")
    if link.bottleneck:
        name.append(" <- bottleneck")
    rates = (link.bytes_per_s, link.predicted_bytes_per_s, link.limit_bytes_per_s)
    shown = [format_rate(rate) if rate is not None else NOTHING for rate in rates]
    return [name, *shown, f"{link.used:.0%}" if link.used is not None else NOTHING]


def _rate(state: PipelineState) -> str:
    return NOTHING if state.items_per_s is None else format_items_rate(state.items_per_s, 3, state.unit)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")
