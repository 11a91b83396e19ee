"""Derived views of a plan: which ranks are connected, and the fallback without a host. Imports no torch."""

from __future__ import annotations

import itertools
from dataclasses import replace

from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.generation import StateSpec, state_within
from edgecompile.contract.plan import Plan, Stage, TensorSpec

__all__ = ["Pair", "links_of", "links_watched", "plan_without", "result_specs", "slowest_queue_s", "state_of_stage"]

QUEUE_BYTES = 1 << 16
"""What may stand in an interface's queue at once without a warning: TCP sends more only as answers come, and they tell
how late they are."""
Pair = frozenset[int]
"""Two ranks."""


def links_of(plan: Plan) -> set[Pair]:
    """The pairs of ranks between which the plan's microbatches travel."""
    ranks = plan.way
    return {frozenset(pair) for pair in itertools.pairwise(ranks) if pair[0] != pair[1]}


def links_watched(plan: Plan, rank: int) -> set[int]:
    """The other ends of a rank's links, of the plan and of all that replace it; rank 0 has one to each."""
    pairs = set().union(*(links_of(item) for item in _with_contingencies(plan)))
    pairs |= {frozenset((0, other)) for other in range(1, len(plan.hosts))}
    return {other for pair in pairs if rank in pair for other in pair - {rank}}


def slowest_queue_s(plan: Plan) -> float:
    """How long a byte may wait on one of the links behind a message of the plan, of which an interface holds so much
    before TCP knows of it; 0 where no rate is known."""
    times = [0.0]
    for item in _with_contingencies(plan):
        messages = [*(stage.inputs for stage in item.stages), result_specs(item)]
        for (source, destination), specs in zip(itertools.pairwise(item.way), messages, strict=True):
            link = item.link(source, destination) if source != destination else None
            if link is not None:
                num_bytes = min(QUEUE_BYTES, sum(spec.num_bytes for spec in specs))
                times.append(link.latency_s + num_bytes / link.bandwidth_bytes_per_s)
    return max(times)


def _with_contingencies(plan: Plan) -> list[Plan]:
    return [plan, *(plan_without(plan, item.lost) for item in plan.contingencies)]


def plan_without(plan: Plan, host: str | None) -> Plan:
    """The plan for the loss of a host, with that contingency's stages and prediction; the plan itself for None."""
    if host is None:
        return plan
    found = next(item for item in plan.contingencies if item.lost == host)
    return replace(plan, stages=found.stages, predicted=found.predicted, certificate=found.certificate)


def state_of_stage(plan: Plan, stage: Stage) -> tuple[StateSpec, ...]:
    """The keys and values that a stage keeps."""
    return () if plan.generation is None else state_within(plan.generation.state, stage.units)


def result_specs(plan: Plan) -> tuple[TensorSpec, ...]:
    """What comes back to the data host: the results, or of a text the most likely tokens of each row."""
    if plan.generation is None:
        return plan.outputs
    rows, count = plan.model.microbatch, plan.generation.candidates

    def spec(name: str, shape: tuple[int, ...], dtype: str) -> TensorSpec:
        return TensorSpec(name=name, shape=shape, dtype=dtype, dims=(BATCH, *[None] * (len(shape) - 1)))

    return (
        spec("scores", (rows, count), "float32"), spec("ids", (rows, count), "int32"),
        spec("total", (rows,), "float32"), spec("slots", (rows,), "int64"),
    )  # fmt: skip
