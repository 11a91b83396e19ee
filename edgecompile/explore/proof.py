"""Describes in words what is proved about a plan; used by every command and the report."""

from __future__ import annotations

from edgecompile.contract.plan import Certificate, Plan
from edgecompile.contract.quantities import format_time

__all__ = ["distance", "figure_of", "proof"]

_GIVEN = ("even", "manual", "single", "pipeedge", "pipeedge_shipped", "greedy_memory")


def distance(certificate: Certificate) -> str:
    """How far the plan may be from the best, in a few words."""
    if certificate.gap == 0:
        return "no plan does better"
    return f"within {certificate.gap:.1%} of the best possible"


def figure_of(plan: Plan) -> tuple[str, float]:
    """What the objective makes least: its name, and the plan's own in seconds."""
    predicted, messages = plan.predicted, plan.scheduling.messages
    if plan.objective != "latency":
        return "period", predicted.period_s
    if messages == 1:
        return "latency", predicted.latency_s
    return f"time of {messages} messages", predicted.latency_s + (messages - 1) * predicted.period_s


def proof(plan: Plan) -> str:
    """A sentence about the schedule: how it was found, and how far it may be from the best on this cost model."""
    certificate, (figure, _) = plan.certificate, figure_of(plan)
    bound = format_time(certificate.lower_bound_s)
    if certificate.gap == 0:
        said = "no plan does better on this cost model (gap 0)"
    elif certificate.method in _GIVEN:
        said = f"the best plan's period is {certificate.gap:.1%} shorter ({bound})"
    else:
        said = f"within {certificate.gap:.1%} of the least {figure} possible (lower bound {bound})"
    return f"schedule {certificate.method}: {said}"
