"""HTML and SVG parts of the report. All text from outside is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_bytes, format_items_rate, format_number, format_rate, format_time
from edgecompile.explore.timeline.stage_timeline import COMPUTE, DRAIN, FILL, PACK, SEND, WAIT_INPUT, WAIT_SEND, Row

__all__ = ["STYLE", "bars", "cluster_picture", "curve", "table", "tiles", "timeline"]

STYLE = """
:root { --ink: #1d2430; --soft: #5b6675; --paper: #fff; --card: #f3f5f8; --line: #d5dae1;
  --compute: #1a7f5a; --send: #0b6fb8; --pack: #6a5acd; --wait: #d9a441; --block: #c2452d; --idle: #e3e7ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #a2adbb; --paper: #14181f; --card: #1e242d;
  --line: #36404d; --compute: #3fb68b; --send: #4ba3e3; --pack: #9d90f0; --wait: #e0b45c; --block: #e5735c;
  --idle: #2b323d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 1rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .25rem; }
p { color: var(--soft); margin: .25rem 0 .75rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; }
.tile { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.1rem; overflow-wrap: anywhere; }
.tile span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
svg { display: block; } .picture { width: 100%; max-width: 30rem; height: auto; }
.picture text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.picture .soft { fill: var(--soft); font-size: 11px; }
.picture rect { fill: var(--card); stroke: var(--line); } .picture .track { fill: var(--idle); stroke: none; }
.picture .fill { fill: var(--compute); stroke: none; } .picture .spare { stroke-dasharray: 4 3; }
.picture path { stroke: var(--send); fill: none; stroke-width: 2; } .picture .head { fill: var(--send); stroke: none; }
.row { margin: .45rem 0; font-size: .85rem; } .row .name { display: flex; justify-content: space-between; gap: 1rem; }
.row .name span:last-child { color: var(--soft); white-space: nowrap; }
.row svg { width: 100%; height: 1.3rem; background: var(--idle); border-radius: .2rem; }
.bar { height: .55rem; border-radius: .2rem; background: var(--compute); margin-top: 2px; min-width: 1px; }
.bar.predicted { background: var(--soft); }
.compute { fill: var(--compute); } .send { fill: var(--send); } .pack { fill: var(--pack); }
.wait { fill: var(--wait); }
.block { fill: var(--block); } .idle { fill: var(--idle); }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .85rem; color: var(--soft); }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; margin-right: .35rem; }
.curve { width: 100%; height: 10rem; background: var(--card); border-radius: .4rem; }
.curve polyline, .curve line { fill: none; stroke: var(--compute); stroke-width: 2; vector-effect: non-scaling-stroke; }
.curve line { stroke: var(--soft); stroke-dasharray: 6 4; }
.ends { display: flex; justify-content: space-between; font-size: .8rem; color: var(--soft); }
"""
CLASSES = {COMPUTE: "compute", SEND: "send", PACK: "pack", WAIT_INPUT: "wait", WAIT_SEND: "block", FILL: "idle",
           DRAIN: "idle"}  # fmt: skip
WIDTH, BOX, GAP = 360, 66, 44
LONGEST_NAME = 30
MICROBATCHES_A_POINT = 8
MOST_POINTS = 30
"""Of a curve: fewer would hide a pause, more would show each microbatch as a spike."""


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    """A few figures, large."""
    cells = (f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b></div>' for name, value in facts)
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def cluster_picture(plan: Plan) -> str:
    """Hosts from top to bottom as the data passes them, links between them, and those without a stage below."""
    parts: list[str] = []
    top = 8.0
    period_s = plan.predicted.period_s
    ranks = [0, *(stage.rank for stage in plan.stages), 0]
    if plan.stages[0].rank != 0:
        parts += _box(top, plan.hosts[0].name, "data host: feeds the inputs", [])
        top += BOX
        parts += _arrow(top, _way(plan, 0, ranks[1], None))
        top += GAP
    for stage in plan.stages:
        host = plan.hosts[stage.rank]
        data = ", data host" if stage.rank == 0 else ""
        filled = [("busy", stage.predicted.compute_s / period_s, format_time(stage.predicted.compute_s)),
                  ("memory", stage.predicted.memory_bytes / host.limits.memory_bytes,
                   format_bytes(stage.predicted.memory_bytes))]  # fmt: skip
        units = f"{host.device}{data}: units {stage.units[0]}\u2013{stage.units[1]}"
        parts += _box(top, f"{host.name}, stage {stage.stage}", units, filled)
        top += BOX
        following = ranks[stage.stage + 2]
        if following != stage.rank:
            parts += _arrow(top, _way(plan, stage.rank, following, stage.predicted.send_s))
            top += GAP
        elif stage.stage + 1 < len(plan.stages):
            top += 8
    if ranks[-2] != 0:
        parts += _box(top, plan.hosts[0].name, "data host: takes the results", [])
        top += BOX
    for spare in plan.unused_hosts:
        top += 8
        parts += _box(top, spare.name, f"{spare.device}: no stage", [], spare=True)
        top += BOX
    label = escape(f"{len(plan.stages)} stages on {len(plan.cluster)} hosts")
    return (f'<svg class="picture" viewBox="0 0 {WIDTH} {top + 8:.0f}" role="img" aria-label="{label}">'
            f"{''.join(parts)}</svg>")  # fmt: skip


def _way(plan: Plan, source: int, destination: int, send_s: float | None) -> str:
    rates = [plan.hosts[rank].limits.bandwidth_bytes_per_s for rank in (source, destination)]
    known = [rate for rate in rates if rate is not None]
    parts = [format_time(send_s)] if send_s else []
    if known and plan.network.model != "pairwise":
        parts.append(f"{format_rate(min(known))}")
    return ", ".join(parts)


def _box(
    top: float, name: str, text: str, filled: Sequence[tuple[str, float, str]], spare: bool = False
) -> Iterator[str]:
    kind = ' class="spare"' if spare else ""
    yield f'<rect{kind} x="1" y="{top:.0f}" width="{WIDTH - 2}" height="{BOX}" rx="8"/>'
    yield f'<text x="12" y="{top + 22:.0f}">{escape(_short(name))}</text>'
    yield f'<text class="soft" x="12" y="{top + 38:.0f}">{escape(_short(text, 52))}</text>'
    for number, (what, full, value) in enumerate(filled):
        left = 12 + number * (WIDTH - 24) / 2
        width = (WIDTH - 24) / 2 - 12
        share = min(max(full, 0.0), 1.0)
        yield f'<rect class="track" x="{left:.0f}" y="{top + 56:.0f}" width="{width:.0f}" height="4" rx="2"/>'
        yield f'<rect class="fill" x="{left:.0f}" y="{top + 56:.0f}" width="{width * share:.1f}" height="4" rx="2"/>'
        yield f'<text class="soft" x="{left:.0f}" y="{top + 52:.0f}">{escape(f"{what} {share:.0%} ({value})")}</text>'


def _arrow(top: float, text: str) -> Iterator[str]:
    yield f'<path d="M40 {top + 3:.0f} V{top + GAP - 10:.0f}"/>'
    yield f'<path class="head" d="M34 {top + GAP - 12:.0f} h12 l-6 9 z"/>'
    yield f'<text class="soft" x="56" y="{top + GAP / 2 + 4:.0f}">{escape(text)}</text>'


def _short(text: str, longest: int = LONGEST_NAME) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "\u2026"


def bars(rows: Sequence[tuple[str, float | None, float | None]], unit: str = "ms") -> str:
    """Name, a value, and the value to compare it with (None: none); lengths to one scale."""
    largest = max((value for _, *pair in rows for value in pair if value is not None), default=0.0) or 1.0
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
    return "".join(parts)


def timeline(rows: Sequence[Row]) -> str:
    """One strip a row, all to one scale of time."""
    end_s = max((span.end_s for row in rows for span in row.spans), default=0.0) or 1.0
    parts = []
    seen: set[str] = set()
    for row in rows:
        busy_s = sum(span.end_s - span.begin_s for span in row.spans if span.what in (COMPUTE, SEND))
        parts.append(f'<div class="row"><div class="name"><span>{escape(row.name)}</span>'
                     f"<span>busy {busy_s / end_s:.0%}</span></div>"
                     '<svg viewBox="0 0 1000 10" preserveAspectRatio="none">')  # fmt: skip
        for span in row.spans:
            seen.add(span.what)
            left, width = 1000 * span.begin_s / end_s, 1000 * (span.end_s - span.begin_s) / end_s
            # a hair narrower: neighbours stay apart
            width = width * 0.97 if span.what in (COMPUTE, SEND) else width
            which = f" {span.microbatch}" if span.microbatch is not None else ""
            said = f"{span.what}{which}: {format_time(span.end_s - span.begin_s)}"
            parts.append(f'<rect class="{CLASSES[span.what]}" x="{left:.2f}" y="0" width="{width:.2f}" height="10">'
                         f"<title>{escape(said)}</title></rect>")  # fmt: skip
        parts.append("</svg></div>")
    parts.append(f'<div class="ends"><span>0 s</span><span>{escape(format_time(end_s))}</span></div>')
    key = (f'<span><i style="background:var(--{CLASSES[what]})"></i>{escape(what)}</span>'
           for what in (COMPUTE, SEND, PACK, WAIT_INPUT, WAIT_SEND, FILL) if what in seen)  # fmt: skip
    return "".join(parts) + f'<div class="key">{"".join(key)}</div>'


def curve(step_s: float, counts: Sequence[int], predicted: float, microbatch: int) -> str:
    """Items a second over time; the last stretch is not whole and is left out."""
    # a point stands for several microbatches: else one more or less in a stretch would look like a change of speed
    usual = max(1.0, sum(counts) / len(counts))
    enough = min(len(counts) // 4, math.ceil(MICROBATCHES_A_POINT * microbatch / usual))
    together = max(1, len(counts) // MOST_POINTS, enough)
    step_s *= together
    whole = len(counts[:-1]) // together
    sums = [sum(counts[number * together : (number + 1) * together]) for number in range(whole)] or [sum(counts)]
    rates = [count / step_s for count in sums]
    largest = 1.1 * max([*rates, predicted])
    across = 1000 / max(len(rates) - 1, 1)
    points = " ".join(f"{number * across:.1f},{100 - 100 * rate / largest:.1f}" for number, rate in enumerate(rates))
    level = 100 - 100 * predicted / largest
    return (
        '<svg class="curve" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="items a second">'
        f'<line x1="0" x2="1000" y1="{level:.1f}" y2="{level:.1f}"/><polyline points="{points}"/></svg>'
        f'<div class="ends"><span>0 to {format_items_rate(largest)}</span>'
        f"<span>{escape(format_time(step_s * len(rates)))}</span></div>"
    )
