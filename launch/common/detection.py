"""Times of failure detection: how long a rank or a link may be silent. Imports no torch."""

from __future__ import annotations

from edgecompile.contract.plan import Plan
from edgelaunch.common.plan_parts import slowest_queue_s

__all__ = ["STORE_PATIENCE", "beat_s", "detection_s", "silence_s"]

SILENCE = 0.55
"""Of the time of detection; the rest is for rank 0 to learn of it."""
QUEUES = 4.5
"""A byte may wait in one queue and its acknowledgement in another on the way back, so that a link may be silent for 2.5
of them; and this is more than that by the time that rank 0 needs."""
STORE_PATIENCE = 5
"""A rank whose link to rank 0 lives may be silent in the store for so many times of detection: over a slow link what
the store is asked and answers takes long."""


def beat_s(plan: Plan) -> float:
    """Seconds between two heartbeats: four at least within the time of detection."""
    return min(1.0, plan.runtime.detect_s / 4)


def detection_s(plan: Plan) -> float:
    """After so long a silence a rank is lost and a link cut: `runtime.detect`, and longer on slow links: a first
    microbatch fills an interface's queue before any slow answer could warn of it."""
    return max(plan.runtime.detect_s, QUEUES * slowest_queue_s(plan))


def silence_s(plan: Plan) -> float:
    """After so long without an answer a link is silent; what is left of the time is for rank 0 to learn of it."""
    return SILENCE * detection_s(plan)
