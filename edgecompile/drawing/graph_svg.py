"""Draws a graph of hosts and links as SVG: in rows that turn round at their ends, as the data goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from edgecompile.drawing.cluster_graph import Gauge, Graph, Link, Node

__all__ = ["draw_graph"]

BOX_WIDTH, LINE, PAD = 250, 16, 12
GAP_ACROSS, GAP_DOWN, MARGIN = 120, 62, 26
BROAD_COLUMNS = 3
LONGEST_NAME, LONGEST_LINE, LONGEST_LABEL = 28, 40, 22
TWINS = 12
"""Pixels: how far links there and back lie from the middle."""
GAUGE = 26
"""Pixels: a bar and the words over it."""


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    height: float
    row: int
    column: int

    @property
    def right(self) -> float:
        return self.left + BOX_WIDTH

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def middle(self) -> tuple[float, float]:
        return self.left + BOX_WIDTH / 2, self.top + self.height / 2


def draw_graph(graph: Graph) -> str:
    """Twice: in rows for broad screens, in one column for narrow ones; the style shows the one that fits.

    What a live page changes has names: `data-node`, `data-gauge`, `data-link` and `data-lines`.
    """
    columns = min(BROAD_COLUMNS, len(graph.nodes))
    return _draw(graph, columns, "broad") + _draw(graph, 1, "narrow")


def _draw(graph: Graph, columns: int, kind: str) -> str:
    boxes = _places(graph, columns)
    parts: list[str] = []
    around = 0
    for link in graph.links:
        twin = any((other.source, other.destination) == (link.destination, link.source) for other in graph.links)
        drawn = list(_straight(link, boxes[link.source], boxes[link.destination], twin=twin))
        if not drawn:
            drawn = list(_around(link, boxes[link.source], boxes[link.destination], around))
            around += 1
        slowest = " bottleneck" if link.bottleneck else ""
        name = f"{escape(link.source)}-{escape(link.destination)}"
        parts += [f'<g class="link{slowest}" data-link="{name}">', *drawn, "</g>"]
    for node in graph.nodes:
        parts += _node(node, boxes[node.key])
    width = max(box.right for box in boxes.values()) + MARGIN
    height = max(box.bottom for box in boxes.values()) + MARGIN
    return (f'<svg class="graph {kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
            f'aria-label="{escape(graph.what)}">{"".join(parts)}</svg>')  # fmt: skip


def _places(graph: Graph, columns: int) -> dict[str, _Box]:
    height = max(_height(node) for node in graph.nodes)
    found = {}
    for number, node in enumerate(graph.nodes):
        row, place = divmod(number, columns)
        column = place if row % 2 == 0 else columns - 1 - place  # the way turns round at a row's end
        found[node.key] = _Box(MARGIN + column * (BOX_WIDTH + GAP_ACROSS), MARGIN + row * (height + GAP_DOWN), height,
                               row, column)  # fmt: skip
    return found


def _height(node: Node) -> float:
    return PAD + 18 + LINE * len(node.lines) + GAUGE * len(node.gauges) + PAD


def _node(node: Node, box: _Box) -> Iterator[str]:
    state = "" if node.state == "present" else f" {node.state}"
    slowest = " bottleneck" if node.bottleneck else ""
    yield f'<g class="node{state}{slowest}" data-node="{escape(node.key)}">'
    yield (f'<rect class="box" x="{box.left:.0f}" y="{box.top:.0f}" width="{BOX_WIDTH}" height="{box.height:.0f}" '
           'rx="8"/>')  # fmt: skip
    left, top = box.left + PAD, box.top + PAD + 12
    yield f'<text class="name" x="{left:.0f}" y="{top:.0f}">{escape(_short(node.name, LONGEST_NAME))}</text>'
    said = "bottleneck" if node.bottleneck else "" if node.state in ("present", "spare") else node.state
    yield (f'<text class="soft" data-state="{escape(node.key)}" text-anchor="end" x="{box.right - PAD:.0f}" '
           f'y="{top:.0f}">{said}</text>')  # fmt: skip
    for line in node.lines:
        top += LINE
        yield f'<text class="soft" x="{left:.0f}" y="{top:.0f}">{escape(_short(line, LONGEST_LINE))}</text>'
    for gauge in node.gauges:
        top += GAUGE
        yield from _gauge(gauge, f"{gauge.name}-{node.key}", left, top)
    yield "</g>"


def _gauge(gauge: Gauge, name: str, left: float, top: float) -> Iterator[str]:
    width = BOX_WIDTH - 2 * PAD
    full = min(max(gauge.share or 0.0, 0.0), 1.0) * width
    yield f'<text class="soft" data-said="{escape(name)}" x="{left:.0f}" y="{top - 5:.0f}">{escape(gauge.said)}</text>'
    yield f'<rect class="track" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="5" rx="2"/>'
    yield (f'<rect class="fill {escape(gauge.name)}" data-gauge="{escape(name)}" data-whole="{width:.0f}" '
           f'x="{left:.0f}" y="{top:.0f}" width="{full:.1f}" height="5" rx="2"/>')  # fmt: skip


def _straight(link: Link, source: _Box, destination: _Box, *, twin: bool) -> Iterator[str]:
    """Between neighbours; nothing where they are none. `twin`: there is a link the other way too."""
    if source.row == destination.row and abs(source.column - destination.column) == 1:
        yield from _across(link, source, destination, twin=twin)
    elif source.column == destination.column and abs(destination.row - source.row) == 1:
        yield from _down(link, source, destination, twin=twin)


def _across(link: Link, source: _Box, destination: _Box, *, twin: bool) -> Iterator[str]:
    forward = destination.left > source.left
    begin = source.right + 4 if forward else source.left - 4
    end = destination.left - 4 if forward else destination.right + 4
    step = 10 if forward else -10
    height = source.middle[1] + (0 if not twin else TWINS if not forward else -TWINS)
    yield f'<path d="M{begin:.0f} {height:.0f} H{end - step:.0f}"/>'
    yield f'<path class="head" d="M{end - step:.0f} {height - 6:.0f} v12 l{step} -6 z"/>'
    below = twin and not forward
    yield from _label(link, (begin + end) / 2, height + 18 if below else height - 8 - LINE * (len(link.lines) - 1),
                      "middle")  # fmt: skip


def _down(link: Link, source: _Box, destination: _Box, *, twin: bool) -> Iterator[str]:
    """Or up."""
    down = destination.top > source.top
    across = source.middle[0] + (0 if not twin else TWINS if down else -TWINS)
    begin, end = (source.bottom + 4, destination.top - 4) if down else (source.top - 4, destination.bottom + 4)
    step = 10 if down else -10
    yield f'<path d="M{across:.0f} {begin:.0f} V{end - step:.0f}"/>'
    yield f'<path class="head" d="M{across - 6:.0f} {end - step:.0f} h12 l-6 {step} z"/>'
    left, anchor = (across - 12, "end") if twin and not down else (across + 12, "start")
    yield from _label(link, left, (begin + end) / 2 + 4 - LINE / 2 * (len(link.lines) - 1), anchor)


def _around(link: Link, source: _Box, destination: _Box, number: int) -> Iterator[str]:
    """Where no box is: over those between, in the left margin, and between rows."""
    apart = 7 * number
    """Links that go around lie beside each other."""
    if source.row == destination.row:
        top = source.top - 14 - apart % 14
        begin, end = source.middle[0], destination.middle[0]
        yield f'<path d="M{begin:.0f} {source.top - 2:.0f} V{top:.0f} H{end:.0f} V{destination.top - 12:.0f}"/>'
        yield f'<path class="head" d="M{end - 6:.0f} {destination.top - 12:.0f} h12 l-6 10 z"/>'
        yield from _label(link, (begin + end) / 2, top - 3, "middle")
        return
    side, low = 6 + apart % 21, source.bottom - 14
    if source.column == 0:
        way = f"M{source.left - 2:.0f} {low:.0f} H{side}"
    else:  # through the gap over its row
        gap = source.top - 14 - apart % 21
        way = f"M{source.middle[0] - 30:.0f} {source.top - 2:.0f} V{gap:.0f} H{side}"
    if destination.column == 0:
        high = destination.bottom - 14
        yield f'<path d="{way} V{high:.0f} H{destination.left - 12:.0f}"/>'
        yield f'<path class="head" d="M{destination.left - 12:.0f} {high - 6:.0f} v12 l10 -6 z"/>'
        yield from _label(link, side + 6, destination.bottom + 14, "start")
        return
    across, gap = destination.middle[0] - 30, destination.bottom + 18 + apart % 21
    yield f'<path d="{way} V{gap:.0f} H{across:.0f} V{destination.bottom + 12:.0f}"/>'
    yield f'<path class="head" d="M{across - 6:.0f} {destination.bottom + 12:.0f} h12 l-6 -10 z"/>'
    yield from _label(link, side + 6, gap + 14, "start")


def _label(link: Link, left: float, top: float, anchor: str) -> Iterator[str]:
    yield f'<text class="soft" data-lines="{escape(link.source)}-{escape(link.destination)}" text-anchor="{anchor}">'
    for number, line in enumerate(link.lines):
        yield f'<tspan x="{left:.0f}" y="{top + number * LINE:.0f}">{escape(_short(line, LONGEST_LABEL))}</tspan>'
    yield "</text>"


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "\u2026"
