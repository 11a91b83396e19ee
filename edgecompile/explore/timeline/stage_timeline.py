"""The timeline of a simulated run: what each stage and link does, and why each gap is there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_time
from edgecompile.explore.timeline.simulation import Options, Simulation, simulate
from edgecompile.planning.from_plan import as_planned, of_plan

__all__ = [
    "COMPUTE",
    "DRAIN",
    "FILL",
    "PACK",
    "SEND",
    "WAIT_INPUT",
    "WAIT_SEND",
    "Row",
    "Span",
    "drawn",
    "rows_of",
    "simulated_rows",
]

COMPUTE, SEND, PACK = "compute", "send", "pack"
WAIT_INPUT, WAIT_SEND, FILL, DRAIN = "waits for input", "waits to send", "fill", "drain"
LOOKS = {
    COMPUTE: ("#", "green"),
    SEND: ("=", "cyan"),
    PACK: ("+", "blue"),
    WAIT_INPUT: (".", "yellow"),
    WAIT_SEND: ("~", "red"),
    FILL: (" ", "dim"),
    DRAIN: (" ", "dim"),
}
LEAST_S = 1e-12
"""Shorter gaps are rounding."""


@dataclass(frozen=True, kw_only=True)
class Span:
    what: str
    """One of the words above."""
    begin_s: float
    end_s: float
    microbatch: int | None = None
    """None for the time before the first and after the last one."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stage or a link, its spans in order and without overlap."""

    name: str
    host: str
    """Whose it is; of a link the sender."""
    spans: tuple[Span, ...]


def rows_of(simulation: Simulation, hosts: Sequence[str]) -> list[Row]:
    """Each stage, followed by the link that its results take, if any; first the link of the inputs.

    Args:
        simulation: with a trace from microbatch 0 on.
        hosts: names, by the numbers that the simulation has.
    """
    assert simulation.trace.first == 0
    links = {link.boundary: link for link in simulation.links}
    end_s = simulation.total_s
    found: list[Row] = []
    for number in range(len(simulation.stages) + 1):
        link = links.get(number)
        if link is not None:
            name = f"{hosts[link.source]} -> {hosts[link.destination]}"
            found.append(Row(name=name, host=hosts[link.source], spans=tuple(_sends(simulation, number))))
        if number < len(simulation.stages):
            host = hosts[simulation.stages[number].host]
            spans = tuple(_stage_spans(simulation, number, end_s))
            found.append(Row(name=f"stage {number} on {host}", host=host, spans=spans))
    return found


def simulated_rows(plan: Plan, num_microbatches: int) -> list[Row]:
    """What the plan predicts for its first microbatches."""
    problem, schedule = as_planned(plan)
    options = Options(num_microbatches=num_microbatches, microbatch=plan.items_per_message, trace=(0, num_microbatches))
    with of_plan():
        simulation = simulate(problem, schedule, plan.runtime, options)
    return rows_of(simulation, plan.cluster)


def _stage_spans(simulation: Simulation, stage: int, end_s: float) -> Iterator[Span]:
    trace = simulation.trace
    free_s, waits = 0.0, FILL
    times = zip(trace.start_s[stage], trace.end_s[stage], trace.published_s[stage], strict=True)
    for microbatch, (start_s, done_s, published_s) in enumerate(times):
        if start_s - free_s > LEAST_S:
            yield Span(what=waits, begin_s=free_s, end_s=start_s, microbatch=microbatch)
        yield Span(what=COMPUTE, begin_s=start_s, end_s=done_s, microbatch=microbatch)
        if published_s - done_s > LEAST_S:
            yield Span(what=WAIT_SEND, begin_s=done_s, end_s=published_s, microbatch=microbatch)
        free_s, waits = published_s, WAIT_INPUT
    if end_s - free_s > LEAST_S:
        yield Span(what=DRAIN, begin_s=free_s, end_s=end_s)


def _sends(simulation: Simulation, boundary: int) -> Iterator[Span]:
    trace = simulation.trace
    times = zip(trace.send_start_s[boundary], trace.send_end_s[boundary], strict=True)
    for microbatch, (begin_s, end_s) in enumerate(times):
        if not math.isnan(begin_s) and end_s - begin_s > LEAST_S:
            yield Span(what=SEND, begin_s=begin_s, end_s=end_s, microbatch=microbatch)


def drawn(rows: Sequence[Row], width: int) -> Iterator[Text]:
    """The rows as lines of `width` characters, each character what takes most of its time; then what they mean."""
    end_s = max((span.end_s for row in rows for span in row.spans), default=0.0)
    label = max((len(row.name) for row in rows), default=0)
    columns = max(10, width - label - 1)
    step_s = end_s / columns
    for row in rows:
        line = Text(f"{row.name:<{label}} ", no_wrap=True)
        for what in _columns(row, columns, step_s):
            line.append(*LOOKS[what] if what else (" ", ""))
        yield line
    yield Text(f"{'':<{label}} 0 s{format_time(end_s):>{columns - 3}}", no_wrap=True)
    known = [
        what for what in (COMPUTE, SEND, WAIT_INPUT, WAIT_SEND) if any(s.what == what for r in rows for s in r.spans)
    ]
    yield Text("   ".join(f"{LOOKS[what][0]} {what}" for what in known) + "   blank: fill and drain, or a free link")


def _columns(row: Row, columns: int, step_s: float) -> Iterator[str]:
    """What takes the largest part of each column's time; nothing where no span does."""
    taken: list[dict[str, float]] = [{} for _ in range(columns)]
    for span in row.spans:
        first = min(columns - 1, int(span.begin_s / step_s))
        last = min(columns - 1, int(span.end_s / step_s))
        for column in range(first, last + 1):
            begin_s, end_s = max(span.begin_s, column * step_s), min(span.end_s, (column + 1) * step_s)
            taken[column][span.what] = taken[column].get(span.what, 0.0) + max(0.0, end_s - begin_s)
    for shares in taken:
        free_s = step_s - sum(shares.values())
        what = max(shares, key=lambda name: shares[name]) if shares else ""
        yield what if what and shares[what] >= free_s else ""
