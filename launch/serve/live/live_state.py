"""The figures of the live page as plain values, which must cost next to nothing: pages ask several times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_bytes
from edgecompile.drawing.cluster_graph import saturation
from edgelaunch.control.pipeline_state import PipelineState

if TYPE_CHECKING:
    from edgelaunch.control.supervisor import Supervisor
    from edgelaunch.serve.http.service import Service

__all__ = ["LiveSource", "LiveState"]

SHARED_S = 0.05
"""Pages that ask within so long a time get the same."""


@dataclass(frozen=True, kw_only=True)
class LiveSource:
    """What a page shows."""

    plan: Plan
    keyed: bool
    """Whether an API key is asked for."""
    serves: bool
    """Whether requests are answered here, too."""
    state: Callable[[], PipelineState]
    """Raises ApiError 503 where there is none."""
    running_plan: Callable[[], Plan]
    """With a contingency's stages while a host is missing; raises likewise."""
    more: Callable[[], dict[str, Any]] = dict
    """Of requests."""

    @staticmethod
    def of_service(service: Service) -> LiveSource:
        def state() -> PipelineState:
            service.check()
            return service.running.runner.state()

        def running_plan() -> Plan:
            service.check()
            return service.running.runner.overview().plan

        def more() -> dict[str, Any]:
            return {"places": [service.admission.taken, service.admission.most],
                    "waiting": service.running.streams.num_waiting(),
                    "requests": service.counts.num_requests}  # fmt: skip

        return LiveSource(plan=service.running.plan, keyed=service.settings.key is not None, serves=True, state=state,
                          running_plan=running_plan, more=more)  # fmt: skip

    @staticmethod
    def of_run(runner: Supervisor, plan: Plan, *, keyed: bool) -> LiveSource:
        """Of a run whose input is not the page's business."""
        return LiveSource(plan=plan, keyed=keyed, serves=False, state=runner.state,
                          running_plan=lambda: runner.overview().plan)  # fmt: skip


class LiveState:
    def __init__(self, source: LiveSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._made_s = 0.0
        self._values: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        """Raises ApiError 503 before all ranks are connected for the first time, and after the end."""
        with self._lock:
            now = time.monotonic()
            if now - self._made_s > SHARED_S:
                state = self._source.state()
                self._values = {**state.values(), **self._source.more(), "picture": state.picture,
                                "present": state.num_present, "ranks": len(state.hosts),
                                "latency_s": None if state.latency is None else state.latency.p50_s,
                                "hosts": _hosts(state), "links": _links(state)}  # fmt: skip
                self._made_s = now
            return self._values


def _hosts(state: PipelineState) -> dict[str, dict[str, Any]]:
    found = {}
    for host in state.hosts:
        memory = "memory"
        if host.memory_bytes is not None:
            memory = f"memory {format_bytes(host.memory_bytes)}"
        if host.predicted_memory_bytes:
            memory += f", planned {format_bytes(host.predicted_memory_bytes)}"
        share = host.memory_bytes / host.limit_bytes if host.memory_bytes and host.limit_bytes else None
        found[str(host.rank)] = {**vars(host), "memory_share": share, "memory": memory}
    return found


def _links(state: PipelineState) -> dict[str, dict[str, Any]]:
    """By the ends' ranks: what goes over it. Where it carries several boundaries' messages, of all of them."""
    found: dict[str, dict[str, Any]] = {}
    for link in state.links:
        ends = f"{link.source}-{link.destination}"
        before = found.setdefault(ends, {"bytes_per_s": None, "busy": None, "bottleneck": False})
        for name in ("bytes_per_s", "busy"):
            value = getattr(link, name)
            if value is not None:
                before[name] = (before[name] or 0.0) + value
        before["bottleneck"] |= link.bottleneck
        before["lines"] = _lines(before["bytes_per_s"], link.limit_bytes_per_s, before["busy"])
    return found


def _lines(bytes_per_s: float | None, limit: float | None, busy: float | None) -> list[str]:
    if bytes_per_s is None:
        return []
    return [saturation(bytes_per_s, limit), *([f"{min(busy, 1.0):.0%} of the time"] if busy is not None else [])]
