"""The graph of a cluster says what the plan and the run say, and nothing in its drawing lies over a host."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from explore_plans import make_plan

from edgecompile.contract.plan import Plan
from edgecompile.drawing.cluster_graph import Gauge, Graph, Link, Node, graph_of_plan
from edgecompile.drawing.graph_svg import draw_graph


def plan_of(hosts: int) -> Plan:
    names = [(f"host-{number}", "slow") for number in range(hosts)]
    return make_plan({"slow": [0.02] * (2 * hosts)}, names, [100] * (2 * hosts + 1))


def ring(count: int, ways: Sequence[tuple[int, int]]) -> Graph:
    nodes = tuple(
        Node(key=str(number), name=f"host {number}", lines=("kind", f"stage {number}"),
             gauges=(Gauge(name="busy", share=0.5, text="1 ms"),))
        for number in range(count)
    )  # fmt: skip
    links = tuple(Link(source=str(source), destination=str(end), lines=("1 ms", "1 Gbit/s")) for source, end in ways)
    return Graph(nodes=nodes, links=links, what="a ring")


def test_hosts_stand_as_the_data_passes_them() -> None:
    plan = plan_of(3)
    graph = graph_of_plan(plan)
    assert [node.key for node in graph.nodes] == [str(stage.rank) for stage in plan.stages]
    for stage, node in zip(plan.stages, graph.nodes, strict=True):
        assert node.name == plan.hosts[stage.rank].name
        assert node.gauges[0].share == pytest.approx(stage.predicted.compute_s / plan.predicted.period_s)
        assert node.gauges[1].share == stage.predicted.memory_bytes / plan.hosts[stage.rank].limits.memory_bytes
    ranks = [0, *(stage.rank for stage in plan.stages), 0]
    wanted = [(str(one), str(other)) for one, other in itertools.pairwise(ranks) if one != other]
    assert [(link.source, link.destination) for link in graph.links] == wanted


def test_the_bottleneck_is_the_one_that_the_plan_names() -> None:
    plan = plan_of(3)
    middle = plan.stages[1]
    host, following = plan.hosts[middle.rank].name, plan.hosts[plan.stages[2].rank].name
    for bottleneck, nodes, links in (
        (f"stage 1 on {host}", [1], 0),
        (f"stage 1 on {host} (97% busy)", [1], 0),
        (f"link {host} -> {following}", [], 1),
        (f"interface of {host}", [1], 2),
        ("the shared medium", [], None),
    ):
        graph = graph_of_plan(replace(plan, predicted=replace(plan.predicted, bottleneck=bottleneck)))
        assert [number for number, node in enumerate(graph.nodes) if node.bottleneck] == nodes, bottleneck
        found = sum(link.bottleneck for link in graph.links)
        assert found == (len(graph.links) if links is None else links), bottleneck
        assert bottleneck in graph.what


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 9])
def test_no_arrow_lies_over_a_host(count: int) -> None:
    ways = [(number, number + 1) for number in range(count - 1)] + ([(count - 1, 0)] if count > 1 else [])
    ways += [(count - 1, 2)] if count > 4 else []
    for picture in re.findall("<svg.*?</svg>", draw_graph(ring(count, ways)), re.DOTALL):
        root = ElementTree.fromstring(picture)
        boxes = [tuple(float(box.attrib[name]) for name in ("x", "y", "width", "height"))
                 for box in root.iter("rect") if box.attrib.get("class") == "box"]  # fmt: skip
        assert len(boxes) == count
        drawn = [path.attrib["d"] for path in root.iter("path") if "class" not in path.attrib]
        assert len(drawn) == len(ways)
        for way in drawn:
            for (left, top), (right, bottom) in itertools.pairwise(corners(way)):
                for x, y, width, height in boxes:
                    apart = (max(left, right) <= x or min(left, right) >= x + width
                             or max(top, bottom) <= y or min(top, bottom) >= y + height)  # fmt: skip
                    assert apart, (way, (x, y, width, height))
        _, _, wide, high = map(float, root.attrib["viewBox"].split())
        places = [corner for way in drawn for corner in corners(way)]
        assert all(0 <= across <= wide and 0 <= down <= high for across, down in places)


def corners(way: str) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for word, numbers in re.findall(r"([MHV])([-\d. ]+)", way):
        values = [float(number) for number in numbers.split()]
        across, down = found[-1] if found else (0.0, 0.0)
        found.append({"M": tuple(values), "H": (values[0], down), "V": (across, values[0])}[word])  # type: ignore[arg-type]
    return found


def test_what_comes_from_outside_is_escaped() -> None:
    node = Node(key='"<', name="<script>", lines=('a"b', "&"), state="lost")
    graph = Graph(nodes=(node,), links=(), what='"><script>')
    for picture in re.findall("<svg.*?</svg>", draw_graph(graph), re.DOTALL):
        root = ElementTree.fromstring(picture)
        assert root.attrib["aria-label"] == '"><script>'
        assert "<script>" in [text.text for text in root.iter("text")]
