"""Times of failure detection: how long a rank or a link may be silent. Imports no torch."""

from __future__ import annotations

from edgecompile.contract.plan import Plan

__all__ = ["STORE_PATIENCE", "beat_s", "silence_s"]

SILENCE = 0.55
STORE_PATIENCE = 5
"""A rank whose link to rank 0 lives may be silent in the store for so many times of detection: over a slow link what
the store is asked and answers takes long."""


def beat_s(plan: Plan) -> float:
    """Seconds between two heartbeats: four at least within the time of detection."""
    return min(1.0, plan.runtime.detect_s / 4)


def silence_s(detect_s: float) -> float:
    """After so long without an answer a link is silent; what is left of the time is for rank 0 to learn of it."""
    return SILENCE * detect_s
