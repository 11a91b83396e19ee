"""Colours and shapes of everything that is drawn, and what HTML needs in several places."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["STYLE", "table", "tiles"]

STYLE = """
:root { --ink: #1d2430; --soft: #566170; --paper: #fff; --card: #f3f5f8; --line: #cdd3db;
  --compute: #00795c; --send: #0b65a8; --pack: #6a5acd; --wait: #c98500; --block: #b8461b; --idle: #e0e5ea; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #a5b0be; --paper: #14181f; --card: #1e242d;
  --line: #3b4653; --compute: #3fb68b; --send: #5fb0ea; --pack: #a79bf3; --wait: #e6b450; --block: #f08a5d;
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
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td { min-width: 4.5rem; overflow-wrap: anywhere; } th { color: var(--soft); font-weight: 600; white-space: nowrap; }
svg { display: block; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg .soft { fill: var(--soft); font-size: 11px; }
.graph { width: 100%; } .graph.broad { max-width: 58rem; } .graph.narrow { display: none; max-width: 26rem; }
@media (max-width: 640px) { .graph.broad { display: none; } .graph.narrow { display: block; } }
.graph .name { font-size: 14px; font-weight: 600; }
.graph .node rect { fill: var(--card); stroke: var(--line); stroke-width: 1.5; }
.graph .node rect.track { fill: var(--idle); stroke: none; }
.graph .node rect.fill { fill: var(--compute); stroke: none; }
.graph .node.spare rect.box, .graph .node.joining rect.box, .graph .node.awaited rect.box { stroke-dasharray: 5 4; }
.graph .node.lost rect.box { stroke: var(--block); stroke-dasharray: 2 4; stroke-width: 3; }
.graph .node.lost .name { text-decoration: line-through; }
.graph .node.bottleneck rect.box { stroke: var(--block); stroke-width: 3; }
.graph .node.bottleneck rect.fill.busy { fill: var(--block); }
.graph .link path { stroke: var(--send); fill: none; stroke-width: 2; }
.graph .link .head { fill: var(--send); stroke: none; }
.graph .link.bottleneck path { stroke: var(--block); stroke-width: 4; }
.graph .link.bottleneck .head { fill: var(--block); stroke: none; }
.graph .plate { fill: var(--paper); }
.row { margin: .45rem 0; font-size: .85rem; } .row .name { display: flex; justify-content: space-between; gap: 1rem; }
.row .name span:last-child { color: var(--soft); white-space: nowrap; }
.row svg { width: 100%; height: 1.3rem; background: var(--idle); border-radius: .2rem; }
.bar { height: .55rem; border-radius: .2rem; background: var(--compute); margin-top: 2px; min-width: 1px; }
.bar.predicted { background: repeating-linear-gradient(135deg, var(--soft) 0 3px, var(--idle) 3px 6px); }
.compute { fill: var(--compute); } .send { fill: var(--send); } .pack { fill: var(--pack); }
.wait { fill: var(--wait); } .block { fill: var(--block); } .idle { fill: var(--idle); }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .85rem; color: var(--soft); margin-top: .35rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; margin-right: .35rem; }
.key i.dash { height: 0; border-top: 2px dashed var(--soft); border-radius: 0; margin-bottom: .25rem; width: 1.4rem; }
.key i.line { height: 0; border-top: 3px solid var(--compute); border-radius: 0; margin-bottom: .25rem; width: 1.4rem; }
.key i.striped { background: repeating-linear-gradient(135deg, var(--soft) 0 3px, var(--idle) 3px 6px); }
.chart { width: 100%; max-width: 38rem; } .chart .axis { stroke: var(--soft); stroke-width: 1; }
.chart .grid { stroke: var(--line); stroke-width: 1; } .chart polyline { fill: none; stroke: var(--compute);
  stroke-width: 2.5; } .chart .predicted { stroke: var(--soft); stroke-width: 2; stroke-dasharray: 7 5; }
.ends { display: flex; justify-content: space-between; font-size: .8rem; color: var(--soft); }
"""
"""Colours are told apart by those who do not see red and green as others do, after the palette of Okabe and Ito (2008);
and nothing is told by colour alone."""


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    """A few figures, large."""
    cells = (f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b></div>' for name, value in facts)
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
