"""Counts the cores that this process may use, and each rank's share of them."""

from __future__ import annotations

import os

from edgecompile.contract.plan import Plan

__all__ = ["available_cores", "local_threads"]


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_threads(plan: Plan, rank: int, num_here: int) -> int:
    """Intra-op threads of a rank that shares this machine with others: no more than its share of the cores."""
    cores = available_cores()
    wanted = plan.hosts[rank].threads or cores
    return max(1, min(wanted, cores // num_here))
