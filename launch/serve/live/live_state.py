"""The figures of the live page as plain values, which must cost next to nothing: pages ask several times a second."""

from __future__ import annotations

import threading
import time
from typing import Any

from edgecompile.contract.plan import Plan
from edgecompile.drawing.cluster_graph import rate_of_link, saturation, ways
from edgelaunch.application.statistics import Statistics
from edgelaunch.serve.http.service import Service

__all__ = ["LiveState", "running_plan"]

SHARED_S = 0.05
"""Pages that ask within so long a time get the same."""
EVENTS = 30
BUSIEST = 0.5
"""A host that computes less of its time holds nothing back."""


class LiveState:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._made_s = 0.0
        self._values: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        """Raises ApiError 503 before all ranks are connected for the first time, and after the end."""
        self._service.check()
        with self._lock:
            now = time.monotonic()
            if now - self._made_s > SHARED_S:
                self._values, self._made_s = self._made(), now
            return self._values

    def _made(self) -> dict[str, Any]:
        service, running = self._service, self._service.running
        plan, seen = running_plan(service), running.statistics()
        latency = seen.latency
        return {
            "model": service.name,
            "ready": running.ready,
            "picture": f"{seen.num_epochs} {[stage.rank for stage in plan.stages]}",
            "items": seen.num_items, "items_per_s": seen.items_per_s, "predicted_per_s": _predicted(plan, seen),
            "in_flight": seen.num_in_flight, "waiting": seen.num_waiting,
            "latency_s": None if latency is None else latency.p50_s,
            "predicted_latency_s": plan.predicted.latency_s,
            "present": seen.num_ranks, "ranks": len(plan.hosts),
            "hosts": {str(rank): _host(plan, rank, seen) for rank in range(len(plan.hosts))},
            "links": _links(plan, seen),
            "bottleneck": _busiest(plan, seen),
            "places": [service.admission.taken, service.admission.most],
            "requests": service.counts.num_requests,
            "events": [{"at": event.at, "kind": event.kind, "text": event.text}
                       for event in running.events(EVENTS)],
        }  # fmt: skip


def running_plan(service: Service) -> Plan:
    """With a contingency's stages while a host is missing."""
    return service.running.runner.overview().plan


def _predicted(plan: Plan, seen: Statistics) -> float:
    return plan.generation.predicted.tokens_per_s if plan.generation is not None else seen.predicted_items_per_s


def _host(plan: Plan, rank: int, seen: Statistics) -> dict[str, Any]:
    name = plan.hosts[rank].name
    return {"name": name, "present": rank == 0 or name in seen.busy, "busy": seen.busy.get(name)}


def _links(plan: Plan, seen: Statistics) -> dict[str, list[str]]:
    """By the ends' ranks: what goes over it, where its receiver has no other."""
    found = {}
    passed = ways(plan)
    for _, source, destination in passed:
        each_s = seen.received_bytes_per_s.get(plan.hosts[destination].name)
        if each_s is None:
            continue
        others = sum(end == destination for _, _, end in passed) > 1
        rate = rate_of_link(plan, source, destination)
        found[f"{source}-{destination}"] = [saturation(each_s, rate), *(["all of its links"] if others else [])]
    return found


def _busiest(plan: Plan, seen: Statistics) -> str | None:
    """The rank of the stage that computes most of its time."""
    busy = {stage.rank: seen.busy.get(plan.hosts[stage.rank].name) or 0.0 for stage in plan.stages}
    rank = max(busy, key=lambda rank: busy[rank])
    return str(rank) if busy[rank] >= BUSIEST else None
