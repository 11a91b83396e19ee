"""Draws a timeline: one strip a row, as HTML and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgecompile.contract.quantities import format_time
from edgecompile.explore.timeline.stage_timeline import COMPUTE, DRAIN, FILL, PACK, SEND, WAIT_INPUT, WAIT_SEND, Row

__all__ = ["timeline"]

CLASSES = {COMPUTE: "compute", SEND: "send", PACK: "pack", WAIT_INPUT: "wait", WAIT_SEND: "block", FILL: "idle",
           DRAIN: "idle"}  # fmt: skip


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
