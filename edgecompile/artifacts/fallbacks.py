"""Fallback plans: for each host, a schedule and shards for the remaining hosts (contingency=1).

Scheduled exactly, on the hosts that the plan uses, with the same microbatch and wire format; wishes for throughput and
latency do not hold here, all other constraints do. A survivor lets go of its stage's weights before it loads the new
ones, so its memory must hold the one or the other, and never both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgecompile.artifacts.compiled_stage import (
    CompiledPipeline,
    StageDesign,
    StageWriter,
    design_stages,
    finished,
    unwritten,
)
from edgecompile.artifacts.equality import Equality, Flow, check_other_sizes, check_shards
from edgecompile.artifacts.shards import Shard
from edgecompile.artifacts.wire_loss import is_lossy
from edgecompile.config.request import CompileRequest
from edgecompile.contract.closed_sets import Objective
from edgecompile.frontend.chain.products import lowered_by
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.golden_items import Reference
from edgecompile.frontend.golden.other_sizes import SizedItems
from edgecompile.planning.planning_inputs import PlanningInputs, one_format, state_problem
from edgecompile.planning.problem import Infeasible, Problem, Schedule
from edgecompile.planning.solver import solve
from edgecompile.wire.formats import cut_formats

__all__ = [
    "CompiledFallback",
    "Contingencies",
    "Fallback",
    "check_fallbacks",
    "find_contingencies",
    "unwritten_fallbacks",
    "write_fallbacks",
]


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What is done without one host."""

    lost: str
    schedule: Schedule


@dataclass(frozen=True, kw_only=True)
class CompiledFallback:
    """The same, with its shards."""

    lost: str
    pipeline: CompiledPipeline


@dataclass(frozen=True, kw_only=True)
class Contingencies:
    fallbacks: tuple[Fallback, ...] = ()
    notes: tuple[str, ...] = ()
    """For each host that cannot be done without: why."""


def find_contingencies(inputs: PlanningInputs, schedule: Schedule) -> Contingencies:
    """A schedule for the loss of each host that runs a stage, the data host excepted."""
    used = {0, *(stage.host for stage in schedule.stages)}
    problem = state_problem(inputs, one_format(inputs, inputs.scheduling.wire))
    idle = set(range(len(inputs.hosts))) - used
    fallbacks, notes = [], []
    for lost in sorted(used - {0}):
        name = inputs.hosts[lost].name
        try:
            found = solve(_without(problem, {lost, *idle}))
        except Infeasible as error:
            notes.append(f"the plan cannot continue without {name}: {error}")
            continue
        fallbacks.append(Fallback(lost=name, schedule=found))
    return Contingencies(fallbacks=tuple(fallbacks), notes=tuple(notes))


def _without(problem: Problem, hosts: set[int]) -> Problem:
    pins = tuple(replace(pin, hosts=tuple(host for host in pin.hosts if host not in hosts)) for pin in problem.pins)
    for pin in pins:
        if not pin.hosts:
            raise Infeasible(f"units {pin.units[0]}-{pin.units[1]} are pinned to it")
    order = problem.host_order
    objective = Objective.PERIOD if problem.objective is Objective.PERIOD_UNDER_LATENCY else problem.objective
    return replace(
        problem,
        objective=objective,
        pins=pins,
        excluded_hosts=tuple(sorted({*problem.excluded_hosts, *hosts})),
        host_order=None if order is None else tuple(host for host in order if host not in hosts),
        period_limit_s=None,
        latency_limit_s=None,
    )


def write_fallbacks(
    fallbacks: Sequence[Fallback],
    writer: StageWriter,
    request: CompileRequest,
    start: Flow,
) -> tuple[CompiledFallback, ...]:
    """Writes the shards of every fallback, one that several share once, and runs the golden items through them.

    Args:
        start: the golden items as the model's inputs.
    """
    written: dict[tuple[int, int, str, str, str], Shard] = {}

    def complete(fallback: Fallback) -> CompiledFallback:
        designs = _designs(fallback, writer.chain, request)
        flow, stages = replace(start, lossy=is_lossy(writer.chain, designs)), []
        for index, design in enumerate(designs):
            key = (design.placed.first, design.placed.last, design.incoming.name, design.outgoing.name,
                   design.precision.value)  # fmt: skip
            if key not in written:
                written[key] = writer.write(design, flow.batches[0]).shard
            stages.append(finished(design, written[key]))
            flow = flow.through(writer.opened(written[key]), f"stage {index + 1} without {fallback.lost}")
        pipeline = CompiledPipeline(
            schedule=fallback.schedule, stages=tuple(stages), outputs=flow.outputs(), others=flow.others
        )
        return CompiledFallback(lost=fallback.lost, pipeline=pipeline)

    return tuple(complete(item) for item in fallbacks)


def unwritten_fallbacks(
    fallbacks: Sequence[Fallback], chain: Chain, request: CompileRequest
) -> tuple[CompiledFallback, ...]:
    """Those of a plan without shards."""
    return tuple(
        CompiledFallback(lost=item.lost, pipeline=unwritten(item.schedule, _designs(item, chain, request)))
        for item in fallbacks
    )


def _designs(fallback: Fallback, chain: Chain, request: CompileRequest) -> tuple[StageDesign, ...]:
    common = replace(request.wire, per_cut=())  # which are for the plan's own cuts
    count = len(fallback.schedule.stages)
    return design_stages(
        fallback.schedule, cut_formats(common, count - 1), [request.artifact.format] * count, request.cluster,
        lowered_by(chain, request.precision.keep, request.cluster.precisions),
    )  # fmt: skip


def check_fallbacks(
    fallbacks: Sequence[CompiledFallback],
    chain: Chain,
    reference: Reference,
    microbatch: int,
    max_error: float,
    equality: Equality,
    others: Sequence[SizedItems] = (),
) -> Equality:
    """Compares the shards of every fallback with the eager model, and widens what a run may differ by to the largest.

    Raises:
        AssertionError, UserError: as check_shards does.
    """
    for item in fallbacks:
        found = check_shards(chain, item.pipeline.stages, item.pipeline.outputs, reference, microbatch, max_error)
        equality = replace(
            equality, errors=_largest(equality.errors, found.errors),
            tolerance=_largest(equality.tolerance, found.tolerance),
        )  # fmt: skip
        check_other_sizes(chain, item.pipeline, others, found)
    return equality


def _largest(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(max(pair) for pair in zip(first, second, strict=True))
