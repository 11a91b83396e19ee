"""Schedulers of other systems, to compare with: PipeEdge's, as published and as shipped, and exo's. Imports no torch.

Each assigns units to hosts by its own view of the costs; `evaluate` says what the result costs in ours. Sources, of
which no code is taken over:

PipeEdge. Hu, Imes, Zhao, Kundu, Beerel, Crago, Walters: Pipeline Parallelism for Inference on Heterogeneous Edge
Computing, arXiv 2110.14895 (2021), and PipeEdge, DSD 2022. Dynamic programming over h(i, S, u): the least period of the
first i layers on the devices S, where u is next; a stage takes the larger of its computing and its sending, which
overlap: so the authors' own program has it (usc-isi/PipeEdge, src-native/schedule.cpp), in the paper's symbols. Hosts
that are alike are counted and not told apart. Ties are settled as the program does: the smaller i, then S, then u. Its
layers, memory and links: see `pipeedge` and `pipeedge_shipped`.

exo. RingMemoryWeightedPartitioningStrategy and map_partitions_to_shards of exo's version 0.0: see `greedy_memory`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecompile.contract.errors import UserError
from edgecompile.planning.problem import Assignment, Infeasible, PairwiseLinks, Problem, SharedMedium

__all__ = ["greedy_memory", "pipeedge", "pipeedge_shipped"]

MOST_WORK = 10**10
"""Stages that may be looked at, with all that may come next: a minute."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Type:
    """Hosts that a scheduler does not tell apart."""

    hosts: tuple[int, ...]

    @property
    def first(self) -> int:
        return self.hosts[0]


def pipeedge(problem: Problem, starts: Sequence[int], hosts: Sequence[int]) -> tuple[Assignment, ...]:
    """PipeEdge's algorithm as published.

    Unlike the exact scheduler it knows neither what inputs and results cost on their way from and to the data host, nor
    that the transfers of one interface or of a shared medium add up, nor encoding and decoding; its memory has weights
    and message buffers, but no activations, and a weight that several units use counts at each.

    Args:
        starts: the units at which a layer begins; stages are of whole layers.
        hosts: that may run a stage.

    Raises:
        Infeasible: no way of cutting fits by its own count of memory.
        UserError: there are too many combinations of hosts.
    """
    types = _types(problem, hosts)
    costs = [_costs(problem, starts, of.first) for of in types]
    transfer = [[_transfers(problem, starts, _rate(problem, *_pair(one, other))) for other in types] for one in types]
    return _assigned(_search(types, costs, transfer), types, starts, len(problem.weight_bytes))


def pipeedge_shipped(problem: Problem, starts: Sequence[int], hosts: Sequence[int]) -> tuple[Assignment, ...]:
    """PipeEdge's program as it ships (src-native/schedule.cpp), its fault included.

    It lists the hosts by type, types by name, and then looks the figures of a *type* up by its number in that list of
    *hosts*: with two hosts of the first type, the second type is planned as if it were the first. A link runs at the
    lower rate of its two ends' types, looked up likewise. Else as `pipeedge`.

    Args, Raises: as pipeedge; by the program's own numbers, four layers to a transformer block (see `starts`).
    """
    types = sorted(_types(problem, hosts), key=lambda of: problem.kinds[problem.hosts[of.first].kind].name)
    listed = [of.first for of in types for _ in of.hosts]
    looked_up = listed[: len(types)]
    costs = [_costs(problem, starts, host) for host in looked_up]
    rates = [_interface(problem, host) for host in looked_up]
    transfer = [[_transfers(problem, starts, min(one, other)) for other in rates] for one in rates]
    return _assigned(_search(types, costs, transfer), types, starts, len(problem.weight_bytes))


def greedy_memory(
    starts: Sequence[int], num_units: int, hosts: Sequence[int], memory_bytes: Sequence[int], names: Sequence[str]
) -> tuple[Assignment, ...]:
    """exo's: a ring of the hosts from the largest memory to the least, each with layers in proportion to its memory.

    It knows neither times nor links. Hosts of equal memory follow their names, the last first; a host whose share is
    less than a layer may get none; the last one takes what is left.

    Args:
        starts: the units at which a layer begins, such as a transformer block.
        memory_bytes, names: by host.
    """
    ring = sorted(hosts, key=lambda host: (memory_bytes[host], names[host]), reverse=True)
    total, count = sum(memory_bytes[host] for host in ring), len(starts)
    bounds, end = [0], 0.0
    for host in ring:
        end = round(end + memory_bytes[host] / total, 5)
        bounds.append(int(end * count))
    bounds[-1] = count
    stages = [(host, low, high) for host, (low, high) in zip(ring, pairwise(bounds), strict=True) if low < high]
    return _of_layers(stages, starts, num_units)


def _types(problem: Problem, hosts: Sequence[int]) -> list[_Type]:
    """Hosts alike in kind, memory and links, in the order of their first one."""
    groups: dict[object, list[int]] = {}
    for host in hosts:
        own = problem.hosts[host]
        key: object = (own.kind, own.memory_bytes, own.bandwidth_bytes_per_s)
        if isinstance(problem.links, PairwiseLinks):
            key = host
        groups.setdefault(key, []).append(host)
    return [_Type(tuple(group)) for group in groups.values()]


def _pair(one: _Type, other: _Type) -> tuple[int, int]:
    """Two hosts, of the same type as well; where that has one alone, no stage follows there."""
    return one.first, other.hosts[-1] if one is other else other.first


def _interface(problem: Problem, host: int) -> float:
    rate = problem.hosts[host].bandwidth_bytes_per_s
    return math.inf if rate is None else rate


def _rate(problem: Problem, source: int, destination: int) -> float:
    if isinstance(problem.links, PairwiseLinks):
        return problem.links.bandwidth_bytes_per_s[source][destination] if source != destination else math.inf
    rate = min(_interface(problem, source), _interface(problem, destination))
    if isinstance(problem.links, SharedMedium):
        return min(rate, problem.links.bandwidth_bytes_per_s)
    return rate


def _transfers(problem: Problem, starts: Sequence[int], rate: float) -> Floats:
    """Seconds of what crosses behind each number of layers, 0 to all."""
    ends = [*starts, len(problem.weight_bytes)]
    return np.array([problem.cut_bytes[end] / rate for end in ends])


def _costs(problem: Problem, starts: Sequence[int], host: int) -> Floats:
    """[i, j]: seconds of the layers i to j - 1 on a host; infinite where they do not fit."""
    ends = [*starts, len(problem.weight_bytes)]
    kind = problem.kinds[problem.hosts[host].kind]
    weights = np.array(problem.weight_bytes, dtype=float)
    for shared in problem.shared_weights:
        weights[list(shared.units)] += shared.num_bytes
    if kind.saved_bytes:
        weights -= kind.saved_bytes
    seconds, sizes = _sums(kind.unit_s, ends), _sums(weights, ends)
    through = np.array([problem.cut_bytes[end] for end in ends], dtype=float)
    received = np.array([0, *(problem.entry_bytes[end] for end in ends[1:])], dtype=float)
    sent = np.array([problem.exit_bytes[end] for end in ends], dtype=float)
    needed = sizes[None, :] - sizes[:, None] + (received + through)[:, None] + (sent + through)[None, :]
    fits = problem.hosts[host].memory_bytes - kind.runtime_bytes > needed
    after = np.arange(len(ends))[:, None] < np.arange(len(ends))[None, :]
    return np.where(fits & after, seconds[None, :] - seconds[:, None], np.inf)


def _sums(values: Any, ends: Sequence[int]) -> Floats:
    """Of all before each of these units."""
    found: Floats = np.concatenate([[0.0], np.cumsum(values)])[list(ends)]
    return found


def _search(
    types: Sequence[_Type], costs: Sequence[Floats], transfer: Sequence[Sequence[Floats]]
) -> list[tuple[int, int, int]]:
    """Type, first layer and end of each stage of the least period.

    Raises:
        Infeasible, UserError: as pipeedge.
    """
    count, layers = len(types), len(costs[0]) - 1
    steps = [1]
    for of in types:
        steps.append(steps[-1] * (len(of.hosts) + 1))
    if steps[-1] * count**2 * (layers + 1) ** 2 > MOST_WORK:
        raise UserError(
            f"{steps[-1]:,} combinations of hosts are more than PipeEdge's algorithm can look at", key="schedule",
            fix="name fewer with schedule.hosts",
        )  # fmt: skip
    least = np.full((steps[-1], count, layers + 1), np.inf)
    before = np.full((steps[-1], count, layers + 1), layers, dtype=int)
    came_from = np.full((steps[-1], count, layers + 1), -1, dtype=int)
    least[0, :, 0] = 0.0
    best = (math.inf, layers, 0, 0)
    places = np.arange(layers + 1)
    for used in range(steps[-1]):
        free = [kind for kind in range(count) if used // steps[kind] % (len(types[kind].hosts) + 1)
                < len(types[kind].hosts)]  # fmt: skip
        for kind in free:
            if not np.isfinite(least[used, kind]).any():
                continue
            stage = np.maximum(least[used, kind][:, None], costs[kind])
            first = int(np.argmin(stage[:, layers]))
            best = min(best, (float(stage[first, layers]), first, used, kind))
            then = used + steps[kind]
            for following in free:
                cost = np.maximum(stage, transfer[kind][following][None, :])
                firsts = np.argmin(cost, axis=0)
                found, known = cost[firsts, places], least[then, following]
                better = (found < known) | ((found == known) & np.isfinite(found) & (firsts < before[then, following]))
                known[better] = found[better]
                before[then, following][better] = firsts[better]
                came_from[then, following][better] = kind
    if not math.isfinite(best[0]):
        raise Infeasible("no way of cutting fits by its own count of memory: weights and message buffers")
    _, first, used, kind = best
    stages, end = [(kind, first, layers)], first
    while end > 0:
        first, earlier = int(before[used, kind, end]), int(came_from[used, kind, end])
        stages.append((earlier, first, end))
        used, kind, end = used - steps[earlier], earlier, first
    return stages[::-1]


def _assigned(
    stages: Sequence[tuple[int, int, int]], types: Sequence[_Type], starts: Sequence[int], num_units: int
) -> tuple[Assignment, ...]:
    """With the hosts of each type in their order."""
    free = [list(of.hosts) for of in types]
    return _of_layers([(free[kind].pop(0), first, end) for kind, first, end in stages], starts, num_units)


def _of_layers(stages: Sequence[tuple[int, int, int]], starts: Sequence[int], num_units: int) -> tuple[Assignment, ...]:
    """`stages`: host, first layer and end of each."""
    ends = [*starts, num_units]
    return tuple(Assignment(first=ends[low], last=ends[high] - 1, host=host) for host, low, high in stages)
