"""A running pipeline at one moment, as everybody is shown it: the live page, `edgelaunch top`, metrics, the Python API.

Plain values that go through JSON, so that who watches from another machine needs neither the plan nor torch.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from edgecompile.contract.plan import Plan
from edgecompile.contract.run_record import Percentiles
from edgelaunch.control.pace import Overview, Pace

__all__ = ["ABSENT", "Event", "HostState", "LinkState", "PipelineState"]

BUSY = 0.85
"""A part that is busy for this share of the time bounds the pipeline."""
LEAST = 0.5
"""Below it nothing holds the pipeline back but what it is asked for."""
ABSENT = ("lost", "awaited")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a pipeline."""

    at: float
    """When, seconds since 1970."""
    kind: str
    """`rank-joined`, `rank-lost`, `link-cut`, `link-healed`, `epoch-began`, `epoch-ended`, `results-again`."""
    text: str
    """In words."""
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class HostState:
    rank: int
    name: str
    state: str = "present"
    """`present`; `joining`: it loads its shard, or asks for its place; `lost`; `awaited`: it has not come yet."""
    stage: int | None = None
    """As the pipeline runs now; None where it computes nothing."""
    busy: float | None = None
    """The share of the last ten seconds that it computed; None where nothing is known."""
    predicted_busy: float | None = None
    memory_bytes: int | None = None
    """What no file backs, as its process has it now; None where it is unknown."""
    resident_bytes: int | None = None
    predicted_memory_bytes: int | None = None
    limit_bytes: int = 0
    received_bytes_per_s: float | None = None
    num_lost: int = 0
    """How often it was lost."""
    num_restarts: int = 0
    """How often it came again."""
    bottleneck: bool = False


@dataclass(frozen=True, kw_only=True)
class LinkState:
    """Of a boundary that the data crosses between two hosts, as its receiver measured it."""

    boundary: int
    """0 feeds stage 0."""
    source: int
    destination: int
    bytes_per_s: float | None = None
    predicted_bytes_per_s: float | None = None
    """At the predicted rate of messages; None where that is not known."""
    limit_bytes_per_s: float | None = None
    """What it may carry, as planned; None where the plan sets no limit."""
    busy: float | None = None
    """The share of the time in which messages were coming in; None where that cannot be seen."""
    bottleneck: bool = False

    @property
    def used(self) -> float | None:
        """Of what it may carry, or of the time, how much."""
        if self.bytes_per_s is not None and self.limit_bytes_per_s:
            return self.bytes_per_s / self.limit_bytes_per_s
        return self.busy


@dataclass(frozen=True, kw_only=True)
class PipelineState:
    number: int = 0
    """Counts up: who reads it from a store takes none for newer than it is."""
    model: str = ""
    unit: str = "items"
    """What is counted: `items`, or of text `tokens`, pieces of prompts included."""
    at: float = 0.0
    """When, seconds since 1970."""
    ready: bool = False
    """Whether items flow: False while the ranks connect."""
    ended: bool = False
    epoch: int = 0
    """How often the ranks were connected."""
    num_items: int = 0
    """Whose results came."""
    items_per_s: float | None = None
    """Over the last ten seconds; None before there is a rate."""
    predicted_per_s: float = 0.0
    """By the plan as it runs now."""
    num_in_flight: int = 0
    latency: Percentiles | None = None
    """From when an item was due, or was fed, to its result; None where there were none."""
    predicted_latency_s: float = 0.0
    bottleneck: str = ""
    """In words; empty where nothing holds it back."""
    predicted_bottleneck: str = ""
    hosts: tuple[HostState, ...] = ()
    """By rank."""
    links: tuple[LinkState, ...] = ()
    events: tuple[Event, ...] = ()
    """The last ones, oldest first."""

    @staticmethod
    def of(seen: Overview, events: Sequence[Event] = (), *, number: int = 0, ended: bool = False) -> PipelineState:
        """`events`: the last ones."""
        plan, generation = seen.plan, seen.plan.generation
        links = _links(seen)
        slowest = _bottleneck(seen, links)
        return PipelineState(
            number=number, model=plan.model.name, unit="items" if generation is None else "tokens", at=time.time(),
            ready=seen.ready, ended=ended, epoch=seen.epoch, num_items=seen.num_items, items_per_s=seen.items_per_s,
            predicted_per_s=_predicted_per_s(plan), num_in_flight=seen.num_in_flight, latency=seen.latency,
            predicted_latency_s=plan.predicted.latency_s, bottleneck=slowest.words,
            predicted_bottleneck=plan.predicted.bottleneck,
            hosts=tuple(_host(seen, rank, slowest) for rank in range(len(plan.hosts))),
            links=tuple(_marked(link, slowest) for link in links), events=tuple(events),
        )  # fmt: skip

    @property
    def num_present(self) -> int:
        return sum(host.state not in ABSENT for host in self.hosts)

    @property
    def picture(self) -> str:
        """Changes where the cluster has to be drawn again: its stages are others."""
        return f"{self.epoch} {[(host.rank, host.stage) for host in self.hosts]}"

    def values(self) -> dict[str, Any]:
        """For JSON; not by asdict, whose copies cost more than all the rest."""
        return {
            **vars(self), "latency": None if self.latency is None else vars(self.latency),
            "hosts": [vars(host) for host in self.hosts], "events": [vars(event) for event in self.events],
            "links": [{**vars(link), "used": link.used} for link in self.links],
        }  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(self.values())

    @staticmethod
    def from_json(text: str) -> PipelineState | None:
        """None where it is something else. What another version says besides is left out."""
        try:
            values: dict[str, Any] = json.loads(text)
            parts = {
                "hosts": tuple(_read(HostState, item) for item in values["hosts"]),
                "links": tuple(_read(LinkState, item) for item in values["links"]),
                "events": tuple(_read(Event, item) for item in values["events"]),
                "latency": _read(Percentiles, values["latency"]) if values["latency"] is not None else None,
            }
            return _read(PipelineState, {**values, **parts})
        except (KeyError, TypeError, ValueError):
            return None


def _read(kind: type[T], values: dict[str, Any]) -> T:
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})


def _predicted_per_s(plan: Plan) -> float:
    return plan.predicted.throughput_items_per_s if plan.generation is None else plan.generation.predicted.tokens_per_s


# --- hosts -----------------------------------------------------------------------------------------------------------


def _host(seen: Overview, rank: int, slowest: _Bottleneck) -> HostState:
    plan, pace, stage = seen.plan, seen.paces.get(rank), seen.plan.stage_of_rank(rank)
    num_lost, num_joined = seen.num_lost.get(rank, 0), seen.num_joined.get(rank, 0)
    state = "joining" if rank in seen.joining else "present"
    if pace is None and state == "present":
        state = "lost" if num_lost else "awaited"
    period_s = plan.predicted.period_s
    return HostState(
        rank=rank, name=plan.hosts[rank].name, state=state, stage=stage.stage if stage is not None else None,
        busy=pace.busy if pace is not None else None,
        predicted_busy=stage.predicted.compute_s / period_s if stage is not None and period_s > 0 else None,
        memory_bytes=pace.memory_bytes if pace is not None else None,
        resident_bytes=pace.resident_bytes if pace is not None else None,
        predicted_memory_bytes=stage.predicted.memory_bytes if stage is not None else None,
        limit_bytes=plan.hosts[rank].limits.memory_bytes,
        received_bytes_per_s=pace.received_bytes_per_s if pace is not None else None,
        num_lost=num_lost, num_restarts=max(0, num_joined - 1), bottleneck=slowest.rank == rank,
    )  # fmt: skip


# --- links -----------------------------------------------------------------------------------------------------------


def _links(seen: Overview) -> list[LinkState]:
    plan, found = seen.plan, []
    for boundary, (source, destination) in enumerate(itertools.pairwise(plan.way)):
        if source == destination:
            continue
        pace = seen.paces[destination].link(boundary) if destination in seen.paces else None
        limit = plan.link(source, destination)
        found.append(LinkState(
            boundary=boundary, source=source, destination=destination,
            bytes_per_s=pace.bytes_per_s if pace is not None else None, busy=pace.busy if pace is not None else None,
            predicted_bytes_per_s=_predicted_bytes_per_s(plan, boundary, source, destination),
            limit_bytes_per_s=limit.bandwidth_bytes_per_s if limit is not None else None,
        ))  # fmt: skip
    return found


def _predicted_bytes_per_s(plan: Plan, boundary: int, source: int, destination: int) -> float | None:
    """Where the plan says how long a message takes over a link of known rate."""
    link = plan.link(source, destination)
    if not boundary or link is None or not link.bandwidth_bytes_per_s or plan.predicted.period_s <= 0:
        return None
    return plan.stages[boundary - 1].predicted.send_s * link.bandwidth_bytes_per_s / plan.predicted.period_s


def _marked(link: LinkState, slowest: _Bottleneck) -> LinkState:
    return link if link.boundary != slowest.boundary else _read(LinkState, {**vars(link), "bottleneck": True})


# --- what holds it back ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bottleneck:
    words: str = ""
    rank: int | None = None
    boundary: int | None = None


def _bottleneck(seen: Overview, links: Sequence[LinkState]) -> _Bottleneck:
    """As a run's report finds it, of the last ten seconds: a stage by its computing, the ends by theirs, a link where
    the side before it waits to get rid of its results and the side after it waits for them."""
    plan = seen.plan
    stages = [(_busy(seen.paces.get(stage.rank)), stage) for stage in plan.stages]
    most, slowest = max(stages, key=lambda item: item[0])
    found = [(most, _Bottleneck(f"stage {slowest.stage} on {plan.hosts[slowest.rank].name}", rank=slowest.rank))]
    if most < BUSY:
        found += [(seen.feeding, _Bottleneck("the input")), (seen.writing, _Bottleneck("the output"))]
        before = [1 - seen.feeding, *(_share(seen, stage.rank, "wait_output") for stage in plan.stages)]
        after = [*(_share(seen, stage.rank, "wait_input") for stage in plan.stages), 1 - seen.writing]
        for link in links:
            names = f"link {plan.hosts[link.source].name} -> {plan.hosts[link.destination].name}"
            share = min(before[link.boundary], after[link.boundary])
            if link.bytes_per_s:
                found.append((share, _Bottleneck(names, boundary=link.boundary)))
    share, what = max(found, key=lambda item: item[0])
    if share < LEAST or not seen.ready or not seen.items_per_s:
        return _Bottleneck()
    return _Bottleneck(f"{what.words} ({min(share, 1.0):.0%} busy)", what.rank, what.boundary)


def _busy(pace: Pace | None) -> float:
    return (pace.busy or 0.0) if pace is not None else 0.0


def _share(seen: Overview, rank: int, part: str) -> float:
    shares = seen.paces[rank].shares() if rank in seen.paces else None
    return shares[part] if shares is not None else 0.0
