"""The live page's HTML, style and script: one file, which asks the service that it came from and nothing else."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path

from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_items_rate, format_number
from edgecompile.drawing.cluster_graph import Graph, graph_of_plan
from edgecompile.drawing.graph_svg import draw_graph
from edgecompile.drawing.style import STYLE

__all__ = ["SCRIPT", "draw_live", "live_html"]

NOTHING = "\u2013"
LINES = 2
"""Of what a link carries."""
OWN_STYLE = """
header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: baseline; }
header h1 { margin-right: auto; } header a { color: var(--send); }
[hidden] { display: none !important; }
#state { font-weight: 600; padding: .1rem .7rem; border-radius: 1rem; border: 2px solid var(--compute); }
#state.waits { border-color: var(--block); border-style: dashed; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
#events { max-height: 16rem; overflow-y: auto; padding-left: 1.2rem; font-size: .9rem; margin: 0; }
#events time { color: var(--soft); font-variant-numeric: tabular-nums; }
form { display: flex; gap: .5rem; } form input { flex: 1; min-width: 0; font: inherit; padding: .45rem .6rem;
  color: var(--ink); background: var(--card); border: 1px solid var(--soft); border-radius: .4rem; }
button { font: inherit; padding: .45rem 1rem; border-radius: .4rem; border: 1px solid var(--send); cursor: pointer;
  background: var(--send); color: var(--paper); }
:focus-visible { outline: 3px solid var(--wait); outline-offset: 2px; }
#said p { color: var(--ink); white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; padding: .5rem .8rem;
  background: var(--card); border-radius: .5rem; } #said p.mine { margin-left: 15%; }
#said p.failed { border-left: 4px solid var(--block); }
"""
SCRIPT = (Path(__file__).parent / "live.js").read_text(encoding="utf-8")


def draw_live(plan: Plan) -> str:
    """The cluster, with room for what is measured of links."""
    return draw_graph(_with_room(graph_of_plan(plan)))


def _with_room(graph: Graph) -> Graph:
    links = tuple(replace(link, lines=(*link.lines, *[""] * LINES)[:LINES]) for link in graph.links)
    return replace(graph, links=links)


def live_html(plan: Plan, *, keyed: bool, serves: bool = True) -> str:
    """`keyed`: whether it asks for an API key; `serves`: whether requests are answered here, too."""
    name = escape(plan.model.name)
    docs = '<a href="/docs">how to call it</a>' if serves else ""
    places = _tile("places of requests", "places", NOTHING) if serves else ""
    text = plan.generation is not None
    what = "Tokens and pieces of prompts" if text else "Items"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name} \u2013 edgelaunch</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>{STYLE}{OWN_STYLE}</style></head><body><main>
<header><h1>{name}</h1><span id="state" role="status">\u2026</span>{docs}</header>
<form id="unlock" aria-label="API key"{"" if keyed else " hidden"}><span id="locked" hidden>This page asks for an API
key.</span><input id="key" type="password" autocomplete="off" aria-label="API key" placeholder="API key">
<button>Show</button></form>
<section aria-label="Figures" class="tiles">
{_tile("now", "rate", NOTHING)}
{_tile("predicted", "predicted", escape(_predicted(plan)))}
{_tile("latency, median", "latency", NOTHING)}
{_tile("predicted latency", "predicted-latency", NOTHING)}
{_tile("done", "items", "0")}
{_tile("under way", "flight", NOTHING)}
{places}
{_tile("ranks present", "ranks", NOTHING)}
{_tile("bottleneck now", "bottleneck", NOTHING)}
{_tile("predicted bottleneck", "predicted-bottleneck", escape(plan.predicted.bottleneck))}
</section>
<section><h2>Cluster</h2><p>How busy hosts and links are now, and the memory of each rank beside what was planned.
What holds the rest back is thick; a board that is lost is struck out, an awaited or joining one has a broken line.</p>
<div id="cluster">{draw_live(plan)}</div></section>
<section><h2>The last two minutes</h2><div class="charts">
<figure style="margin:0"><figcaption>{what} a second</figcaption>
<svg id="rates" class="chart" viewBox="0 0 440 200" role="img"
 aria-label="{what} a second, beside the prediction"></svg>
{_key()}</figure>
<figure style="margin:0"><figcaption>Latency, the median so far</figcaption>
<svg id="latencies" class="chart" viewBox="0 0 440 200" role="img" aria-label="latency, beside the prediction"></svg>
{_key()}</figure></div></section>
{_chat() if text and serves else ""}
<section><h2>Events</h2><ol id="events" reversed tabindex="0" aria-label="Events, the last one first"></ol></section>
</main><script>{SCRIPT}</script></body></html>
"""


def _predicted(plan: Plan) -> str:
    if plan.generation is not None:
        return f"{format_number(plan.generation.predicted.tokens_per_s, 3)} /s"
    return format_items_rate(plan.predicted.throughput_items_per_s)


def _tile(name: str, key: str, value: str) -> str:
    return f'<div class="tile"><span>{name}</span><b id="{key}">{value}</b></div>'


def _key() -> str:
    return '<div class="key"><span><i class="line"></i>measured</span><span><i class="dash"></i>predicted</span></div>'


def _chat() -> str:
    return """<section><h2>Chat</h2><div id="said" role="log" aria-live="polite" aria-label="Conversation"></div>
<form id="chat"><input id="question" aria-label="Message" placeholder="Ask something" autocomplete="off">
<button id="send">Send</button></form></section>"""
