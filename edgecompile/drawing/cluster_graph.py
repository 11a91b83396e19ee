"""A plan's cluster as a graph: hosts are nodes, what the data passes are its links."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecompile.contract.plan import Plan, Stage
from edgecompile.contract.quantities import format_bytes, format_rate, format_time
from edgecompile.contract.run_record import RunRecord

__all__ = ["Gauge", "Graph", "Link", "Node", "graph_of_plan", "graph_of_run", "rate_of_link", "saturation", "ways"]


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """A share of something, drawn as a bar."""

    name: str
    share: float | None
    """0 to 1; None where it is not known."""
    text: str = ""
    """What it is in units."""

    @property
    def said(self) -> str:
        if self.share is None:
            return self.name
        return f"{self.name} {self.share:.0%}" + (f" ({self.text})" if self.text else "")


@dataclass(frozen=True, kw_only=True)
class Node:
    key: str
    """Of the host, within the graph."""
    name: str
    lines: tuple[str, ...]
    """What it is, and what it does."""
    gauges: tuple[Gauge, ...] = ()
    state: str = "present"
    """`present`, `spare`, `lost` or `joining`."""
    bottleneck: bool = False


@dataclass(frozen=True, kw_only=True)
class Link:
    source: str
    """The key of a node."""
    destination: str
    lines: tuple[str, ...]
    bottleneck: bool = False


@dataclass(frozen=True, kw_only=True)
class Graph:
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    what: str
    """For those who do not see it."""


def graph_of_plan(plan: Plan) -> Graph:
    """As the plan predicts it."""
    period_s = plan.predicted.period_s
    busy = {
        stage.rank: Gauge(name="busy", share=_share(stage.predicted.compute_s, period_s),
                          text=format_time(stage.predicted.compute_s))
        for stage in plan.stages
    }  # fmt: skip
    taken = {
        boundary: _link_lines(plan, source, destination, _send_s(plan, boundary), period_s)
        for boundary, source, destination in ways(plan)
    }
    return _graph(plan, busy, taken, plan.predicted.bottleneck, "predicted")


def graph_of_run(plan: Plan, record: RunRecord) -> Graph:
    """As it was measured. A record of another plan's stages gives what both have."""
    busy = {
        stage.rank: Gauge(name="busy", share=stage.busy, text=format_time(stage.compute_s)) for stage in record.stages
    }
    links = {link.boundary: link for link in record.links}
    taken = {}
    for boundary, source, destination in ways(plan):
        link = links.get(boundary)
        if link is None or record.elapsed_s <= 0:
            taken[boundary] = _link_lines(plan, source, destination, None, 0.0)
            continue
        rate = rate_of_link(plan, source, destination)
        each_s = link.num_bytes / record.elapsed_s
        first = format_time(link.transfer_s) if link.transfer_s else ""
        taken[boundary] = tuple(line for line in (first, saturation(each_s, rate)) if line)
    return _graph(plan, busy, taken, record.bottleneck, "measured")


def ways(plan: Plan) -> list[tuple[int, int, int]]:
    """Each boundary that the data crosses between two hosts: its number, and their ranks. 0 feeds stage 0."""
    ranks = plan.way
    return [(number, source, ranks[number + 1]) for number, source in enumerate(ranks[:-1])
            if source != ranks[number + 1]]  # fmt: skip


def rate_of_link(plan: Plan, source: int, destination: int) -> float | None:
    """Bytes a second that it may carry; None where the plan sets no limit."""
    link = plan.link(source, destination)
    return link.bandwidth_bytes_per_s if link is not None else None


def saturation(bytes_per_s: float, rate: float | None) -> str:
    """What goes over a link, and how much of what it may carry that is."""
    said = format_rate(bytes_per_s)
    return f"{said}, {bytes_per_s / rate:.0%} used" if rate else said


def _graph(plan: Plan, busy: dict[int, Gauge], taken: dict[int, tuple[str, ...]], bottleneck: str, how: str) -> Graph:
    nodes = [_node(plan, rank, busy, bottleneck) for rank in _order(plan)]
    nodes += [
        Node(key=f"spare-{number}", name=host.name, lines=(host.device, "no stage"), state="spare")
        for number, host in enumerate(plan.unused_hosts)
    ]
    links = []
    for boundary, source, destination in ways(plan):
        names = plan.hosts[source].name, plan.hosts[destination].name
        links.append(Link(source=str(source), destination=str(destination), lines=taken[boundary],
                          bottleneck=_is_link(bottleneck, *names)))  # fmt: skip
    what = f"{len(plan.stages)} stages on {len(plan.cluster)} hosts, {how}"
    if bottleneck:
        what += f"; the bottleneck is {bottleneck}"
    return Graph(nodes=tuple(nodes), links=tuple(links), what=what)


def _order(plan: Plan) -> list[int]:
    """Ranks as the data passes them; those that compute nothing come last, but for the data host."""
    seen = dict.fromkeys([0] if plan.stages[0].rank != 0 and plan.stage_of_rank(0) is None else [])
    seen |= dict.fromkeys(stage.rank for stage in plan.stages)
    seen |= dict.fromkeys(range(len(plan.hosts)))
    return list(seen)


def _node(plan: Plan, rank: int, busy: dict[int, Gauge], bottleneck: str) -> Node:
    host, stage = plan.hosts[rank], plan.stage_of_rank(rank)
    roles = [f"stage {stage.stage}, units {stage.units[0]}\u2013{stage.units[1]}"] if stage is not None else []
    if rank == 0:
        roles.append("data host" if stage is not None else "data host: feeds inputs, takes results")
    gauges = []
    if stage is not None:
        gauges = [busy.get(rank, Gauge(name="busy", share=None)), _memory(plan, stage)]
    slowest = _plain(bottleneck) == f"interface of {host.name}" or (
        stage is not None and _is_stage(bottleneck, stage.stage, host.name)
    )
    return Node(key=str(rank), name=host.name, lines=(host.device, *(roles or ["no stage"])), gauges=tuple(gauges),
                bottleneck=slowest)  # fmt: skip


def _memory(plan: Plan, stage: Stage) -> Gauge:
    limit, planned = plan.hosts[stage.rank].limits.memory_bytes, stage.predicted.memory_bytes
    return Gauge(name="memory", share=_share(planned, limit), text=format_bytes(planned))


def _send_s(plan: Plan, boundary: int) -> float | None:
    return plan.stages[boundary - 1].predicted.send_s if boundary else None


def _link_lines(plan: Plan, source: int, destination: int, send_s: float | None, period_s: float) -> tuple[str, ...]:
    rate = rate_of_link(plan, source, destination)
    lines = []
    if send_s:
        used = _share(send_s, period_s)
        lines.append(format_time(send_s) + (f", {used:.0%} used" if used is not None else ""))
    if rate is not None:
        lines.append(format_rate(rate))
    return tuple(lines)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _plain(bottleneck: str) -> str:
    """Without how busy a run has found it."""
    return re.sub(r" \(\d+% busy\)$", "", bottleneck)


def _is_stage(bottleneck: str, number: int, host: str) -> bool:
    return _plain(bottleneck) == f"stage {number} on {host}"


def _is_link(bottleneck: str, source: str, destination: str) -> bool:
    """Whether it is this link, or what the link goes over."""
    return _plain(bottleneck) in (f"link {source} -> {destination}", f"interface of {source}",
                                  f"interface of {destination}", "the shared medium")  # fmt: skip
