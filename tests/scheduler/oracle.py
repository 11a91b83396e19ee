"""An independent brute force: every way of cutting and every choice of hosts, costed from the definition."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

from edgecompile.planning.problem import HostLinks, Objective, PairwiseLinks, Problem, SharedMedium

PS = 10**12


@dataclass(frozen=True)
class Plan:
    cuts: tuple[int, ...]
    hosts: tuple[int, ...]
    period: int
    latency: int


def ps(seconds: float) -> int:
    return round(seconds * PS)


def bandwidth(problem: Problem, u: int, v: int) -> Fraction:
    links = problem.links
    if isinstance(links, PairwiseLinks):
        return Fraction(links.bandwidth_bytes_per_s[u][v])
    ends = [problem.hosts[h].bandwidth_bytes_per_s for h in (u, v)]
    known = [Fraction(b) for b in ends if b is not None and not math.isinf(b)]
    if isinstance(links, SharedMedium):
        known.append(Fraction(links.bandwidth_bytes_per_s))
    return min(known)


def transfer(problem: Problem, u: int, v: int, cut: int) -> int:
    return 0 if u == v else math.ceil(problem.cut_bytes[cut] * PS / bandwidth(problem, u, v))


def link_latency(problem: Problem, u: int, v: int) -> int:
    if u == v:
        return 0
    links = problem.links
    return ps(links.latency_s[u][v] if isinstance(links, PairwiseLinks) else links.latency_s)


def compute(problem: Problem, i: int, j: int, host: int) -> int:
    kind = problem.kinds[problem.hosts[host].kind]
    time = sum(ps(kind.unit_s[u]) for u in range(i, j))
    time += ps(kind.decode_s[i]) if kind.decode_s else 0
    return time + (ps(kind.encode_s[j]) if kind.encode_s else 0)


def memory(problem: Problem, i: int, j: int, host: int) -> int:
    shared = sum(w.num_bytes for w in problem.shared_weights if set(w.units) & set(range(i, j)))
    kind = problem.kinds[problem.hosts[host].kind]
    live = max(problem.activation_bytes[i:j])
    return (
        kind.runtime_bytes
        + sum(problem.weight_bytes[i:j])
        - sum(kind.saved_bytes[i:j])
        + shared
        + live
        + problem.entry_bytes[i]
        + problem.exit_bytes[j]
    )


def stage_allowed(problem: Problem, i: int, j: int, host: int) -> bool:
    if memory(problem, i, j, host) > problem.hosts[host].memory_bytes:
        return False
    return all(host in pin.hosts for pin in problem.pins if i <= pin.units[1] and pin.units[0] < j)


def cost(problem: Problem, cuts: tuple[int, ...], hosts: tuple[int, ...]) -> Plan:
    computes = [compute(problem, i, j, h) for i, j, h in zip(cuts, cuts[1:], hosts, strict=False)]
    path = list(zip(hosts, hosts[1:], cuts[1:], strict=False))
    data = problem.data_host
    if data is not None:
        path = [(data, hosts[0], 0), *path, (hosts[-1], data, cuts[-1])]
    transfers = [(u, v, transfer(problem, u, v, cut)) for u, v, cut in path]
    figures = computes + [time for _, _, time in transfers]
    for host in range(len(problem.hosts)):
        figures.append(sum(time for u, _, time in transfers if u == host))
        figures.append(sum(time for _, v, time in transfers if v == host))
    if isinstance(problem.links, SharedMedium):
        figures.append(sum(time for _, _, time in transfers))
    latency = (
        sum(computes) + sum(time for _, _, time in transfers) + sum(link_latency(problem, u, v) for u, v, _ in path)
    )
    return Plan(cuts, hosts, max(figures), latency)


def plans(problem: Problem) -> list[Plan]:
    """Every plan within memory, constraints and limits."""
    num_units = len(problem.weight_bytes)
    named = range(len(problem.hosts)) if problem.host_order is None else problem.host_order
    usable = [h for h in named if h not in problem.excluded_hosts]
    inner = [c for c in range(1, num_units) if not any(a < c <= b for a, b in problem.together)]
    most = min(len(usable), num_units, problem.max_hosts or num_units)
    choose = itertools.permutations if problem.host_order is None else itertools.combinations
    found = []
    fits: dict[tuple[int, int, int], bool] = {}
    for count in range(1, most + 1):
        for chosen in itertools.combinations(inner, count - 1):
            cuts = (0, *chosen, num_units)
            for hosts in choose(usable, count):
                stages = list(zip(cuts, cuts[1:], hosts, strict=False))
                for stage in stages:
                    if stage not in fits:
                        fits[stage] = stage_allowed(problem, *stage)
                if not all(fits[stage] for stage in stages):
                    continue
                plan = cost(problem, cuts, hosts)
                if problem.period_limit_s is not None and plan.period > ps(problem.period_limit_s):
                    continue
                if problem.latency_limit_s is not None and plan.latency > ps(problem.latency_limit_s):
                    continue
                found.append(plan)
    return found


def host_groups(problem: Problem) -> list[int]:
    """For each host the first host that is its like: swapping the two changes nothing."""

    def signature(a: int, b: int, first: int, second: int) -> list[object]:
        """What a sees, with `first` and `second` (the pair compared) told apart from the others."""
        others = [w for w in range(len(problem.hosts)) if w not in (first, second)]
        return [
            (
                bandwidth(problem, a, w),
                bandwidth(problem, w, a),
                link_latency(problem, a, w),
                link_latency(problem, w, a),
            )
            for w in others
        ] + [(bandwidth(problem, a, b), link_latency(problem, a, b))]

    def alike(u: int, v: int) -> bool:
        a, b = problem.hosts[u], problem.hosts[v]
        if problem.data_host in (u, v) or problem.host_order is not None:
            return False
        if (a.kind, a.memory_bytes) != (b.kind, b.memory_bytes):
            return False
        if any((u in pin.hosts) != (v in pin.hosts) for pin in problem.pins):
            return False
        if not isinstance(problem.links, PairwiseLinks):
            return a.bandwidth_bytes_per_s == b.bandwidth_bytes_per_s
        return signature(u, v, u, v) == signature(v, u, u, v)

    usable = [h for h in range(len(problem.hosts)) if h not in problem.excluded_hosts]
    groups = list(range(len(problem.hosts)))
    for u in usable:
        groups[u] = next(v for v in usable if v == u or (v < u and alike(v, u)))
    return groups


def order_key(problem: Problem, groups: list[int], plan: Plan) -> list[tuple[int, int]]:
    rank = {h: k for k, h in enumerate(problem.host_order)} if problem.host_order is not None else None
    stages = list(zip(plan.hosts, plan.cuts, strict=False))
    return [(groups[h] if rank is None else rank[h], cut) for h, cut in reversed(stages)]


def best(problem: Problem) -> Plan | None:
    """The plan that `solve` must return, hosts alike in ascending order; None where there is none."""
    found = plans(problem)
    if not found:
        return None
    groups = host_groups(problem)
    if problem.objective == Objective.LATENCY:
        figures = [(p.latency, p.period, len(p.hosts)) for p in found]
    else:
        figures = [(p.period, p.latency, len(p.hosts)) for p in found]
    least = min(figures)
    ties = [plan for plan, figure in zip(found, figures, strict=True) if figure == least]

    def key(plan: Plan) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
        return order_key(problem, groups, plan), plan.hosts

    return min(ties, key=key)


def front(problem: Problem) -> set[tuple[int, int, int]]:
    figures = {(p.period, p.latency, len(p.hosts)) for p in plans(problem)}
    return {f for f in figures if not any(g != f and all(x <= y for x, y in zip(g, f, strict=True)) for g in figures)}


__all__ = ["HostLinks", "Plan", "best", "cost", "front", "plans", "ps"]
