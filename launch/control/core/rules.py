"""The part of a plan that recovery needs: the routes that microbatches can take, and how long each silence may last."""

from __future__ import annotations

from dataclasses import dataclass

from edgecompile.contract.plan import Plan
from edgelaunch.common.detection import beat_s, detection_s, silence_s
from edgelaunch.common.plan_parts import Pair, links_of, links_watched, plan_without

__all__ = ["Route", "Rules"]


@dataclass(frozen=True, slots=True)
class Route:
    """The plan, or one of those that replace it while a host is missing."""

    without: str | None
    """The missing host; None for the plan itself."""
    lost: int | None
    """Its rank."""
    ranks: tuple[int, ...]
    """Of the stages, in order."""
    group: tuple[int, ...]
    """The ranks that are connected: rank 0 and those with a stage, in order."""
    links: frozenset[Pair]
    """Those without which it does not run: between its stages, and from every rank to rank 0's store."""
    rate: float
    """Items a second, as predicted."""

    @staticmethod
    def of(plan: Plan, without: str | None) -> Route:
        own = plan_without(plan, without)
        ranks = tuple(stage.rank for stage in own.stages)
        links = links_of(own) | {frozenset((0, rank)) for rank in ranks if rank}
        lost = next((host.rank for host in plan.hosts if host.name == without), None)
        return Route(without, lost, ranks, tuple(sorted({0, *ranks})), frozenset(links),
                     own.predicted.throughput_items_per_s)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rules:
    """The same for all ranks of a run."""

    num_ranks: int
    sha256: str
    """Of the plan."""
    routes: tuple[Route, ...]
    """The plan itself comes first."""
    watched: tuple[frozenset[int], ...]
    """By rank: the other ends of its links."""
    detect_s: float
    rejoin_s: float
    timeout_s: float
    silence_s: float
    """After so long without an answer a link is silent."""
    beat_s: float

    @staticmethod
    def of(plan: Plan, sha256: str) -> Rules:
        runtime = plan.runtime
        routes = (None, *(item.lost for item in plan.contingencies))
        return Rules(
            num_ranks=len(plan.hosts), sha256=sha256, routes=tuple(Route.of(plan, without) for without in routes),
            watched=tuple(frozenset(links_watched(plan, rank)) for rank in range(len(plan.hosts))),
            detect_s=detection_s(plan), rejoin_s=runtime.rejoin_s, timeout_s=runtime.timeout_s,
            silence_s=silence_s(plan), beat_s=beat_s(plan),
        )  # fmt: skip

    def route(self, without: str | None) -> Route:
        return next(route for route in self.routes if route.without == without)
