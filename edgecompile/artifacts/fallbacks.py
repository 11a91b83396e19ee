"""Fallback plans: for each host, a schedule and shards for the remaining hosts (contingency=1).

Scheduled exactly, on the hosts that the plan uses, with the same microbatch and wire format; wishes for throughput and
latency do not hold here, all other constraints do. A survivor lets go of its stage's weights before it loads the new
ones, so its memory must hold the one or the other, and never both.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgecompile.artifacts.equality import Equality, Flow, check_shards
from edgecompile.artifacts.shards import RAW, Shard, write_shard
from edgecompile.artifacts.wire_loss import is_lossy
from edgecompile.config.domain import Cluster
from edgecompile.config.schema import Conf, ScheduleMethod
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.golden_items import Reference
from edgecompile.partition.stages import build_problem
from edgecompile.planning.problem import Infeasible, Objective, Problem, Schedule
from edgecompile.planning.solver import solve
from edgecompile.profile.analytic import Profile
from edgecompile.wire.formats import WireFormat, cut_formats

__all__ = ["Contingencies", "Fallback", "check_fallbacks", "find_contingencies", "write_fallbacks"]


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What is done without one host."""

    lost: int
    """Index into the cluster's hosts."""
    schedule: Schedule
    wires: tuple[WireFormat, ...]
    """The format at both ends of each stage, one more than stages."""
    shards: tuple[Shard, ...] = ()
    outputs: tuple[torch.Tensor, ...] = ()
    """What its shards make of the golden items."""


@dataclass(frozen=True, kw_only=True)
class Contingencies:
    fallbacks: tuple[Fallback, ...] = ()
    notes: tuple[str, ...] = ()
    """For each host that cannot be done without: why."""


def find_contingencies(
    chain: Chain, profile: Profile, cluster: Cluster, conf: Conf, schedule: Schedule
) -> Contingencies:
    """A schedule for the loss of each host that runs a stage, the data host excepted; none where contingency=0."""
    if not conf.contingency:
        return Contingencies()
    conf = copy.deepcopy(conf)
    conf.schedule.method, conf.wire.per_cut = ScheduleMethod.exact, []
    used = {0, *(stage.host for stage in schedule.stages)}
    problem = build_problem(chain, profile, cluster, conf)
    idle = set(range(len(cluster.hosts))) - used
    fallbacks, notes = [], []
    for lost in sorted(used - {0}):
        name = cluster.hosts[lost].name
        try:
            found = solve(_without(problem, {lost, *idle}))
        except Infeasible as error:
            notes.append(f"the plan cannot continue without {name}: {error}")
            continue
        inner = cut_formats(conf, len(found.stages) - 1)
        fallbacks.append(Fallback(lost=lost, schedule=found, wires=(RAW, *inner, RAW)))
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
    contingencies: Contingencies, chain: Chain, folder: Path, artifact: str, start: Flow
) -> Contingencies:
    """Writes the shards of every fallback, one that several share once, and runs the golden items through them.

    Args:
        start: the golden items as the model's inputs.
    """
    written: dict[tuple[int, int, str, str], Shard] = {}

    def complete(fallback: Fallback) -> Fallback:
        flow, shards = replace(start, lossy=is_lossy(chain, fallback.schedule, fallback.wires)), []
        for index, stage in enumerate(fallback.schedule.stages):
            incoming, outgoing = fallback.wires[index : index + 2]
            key = (stage.first, stage.last, incoming.name, outgoing.name)
            if key not in written:
                written[key] = write_shard(
                    chain, stage.first, stage.last, folder, flow.batches[0], incoming, outgoing, artifact
                )
            shards.append(written[key])
            flow = flow.through(written[key], f"stage {index + 1} without host {fallback.lost}")
        return replace(fallback, shards=tuple(shards), outputs=flow.outputs())

    return replace(contingencies, fallbacks=tuple(complete(item) for item in contingencies.fallbacks))


def check_fallbacks(
    contingencies: Contingencies, chain: Chain, reference: Reference, conf: Conf, equality: Equality
) -> Equality:
    """Compares the shards of every fallback with the eager model, and widens what a run may differ by to the largest.

    Raises:
        AssertionError, UserError: as check_shards does.
    """
    for item in contingencies.fallbacks:
        found = check_shards(
            chain, item.schedule, item.outputs, reference, conf.microbatch, item.wires, conf.wire.max_error
        )
        equality = replace(
            equality, errors=_largest(equality.errors, found.errors),
            tolerance=_largest(equality.tolerance, found.tolerance),
        )  # fmt: skip
    return equality


def _largest(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(max(pair) for pair in zip(first, second, strict=True))
