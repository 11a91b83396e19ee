"""Estimates what other microbatch sizes would do, from a plan that has costs for one size only."""

from __future__ import annotations

from dataclasses import dataclass

from edgecompile.contract.plan import Plan
from edgecompile.planning.problem import Problem, Schedule

__all__ = ["MicrobatchRoom", "microbatch_room"]


@dataclass(frozen=True, kw_only=True)
class MicrobatchRoom:
    stage: str
    """The stage that takes longest."""
    launch_share: float
    """Of its time, by its device's figure for launching an operator."""
    largest: int
    """That fits with the same stages, where activations and buffers grow with the microbatch."""
    tightest: str
    """The host that is full first."""
    sizes: tuple[int, ...]
    """Worth a sweep."""


def microbatch_room(plan: Plan, problem: Problem, schedule: Schedule) -> MicrobatchRoom:
    devices = {device.name: device for device in plan.devices}
    hosts = plan.all_hosts
    now = plan.model.microbatch
    slowest = max(schedule.stages, key=lambda stage: stage.compute_s)
    launch_s = devices[hosts[slowest.host].device].launch_s * (slowest.last - slowest.first + 1)
    room = []
    for stage in schedule.stages:
        host = hosts[stage.host]
        fixed = devices[host.device].runtime_bytes + _weights(plan, stage.first, stage.last, host.device)
        kept_free = host.limits.memory_bytes - problem.hosts[stage.host].memory_bytes  # for the ends of the pipeline
        growing = max(1, stage.memory_bytes - fixed + kept_free)
        room.append((now * (host.limits.memory_bytes - fixed) // growing, host.name))
    largest, tightest = min(room)
    sizes = sorted({now, *(size for size in (1, 2, 4, 8, 16, 32) if size <= largest)})
    return MicrobatchRoom(
        stage=f"stage {schedule.stages.index(slowest)} on {hosts[slowest.host].name}",
        launch_share=min(1.0, launch_s / slowest.compute_s) if slowest.compute_s else 0.0,
        largest=largest,
        tightest=tightest,
        sizes=tuple(sizes),
    )


def _weights(plan: Plan, first: int, last: int, device: str) -> int:
    own = sum(unit.weight_bytes - unit.saved_bytes.get(device, 0) for unit in plan.units[first : last + 1])
    return own + sum(
        item.num_bytes for item in plan.shared_weights if any(first <= unit <= last for unit in item.units)
    )
