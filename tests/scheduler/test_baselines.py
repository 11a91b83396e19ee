"""Other systems' schedulers: by hand, against a brute force by their own view of the costs, and evaluated by ours."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
from strategies import draw_problem

import edgecompile
from edgecompile.contract.errors import UserError
from edgecompile.planning import baselines
from edgecompile.planning.baselines import greedy_memory, pipeedge, pipeedge_shipped
from edgecompile.planning.problem import Assignment, Infeasible, PairwiseLinks, Problem, SharedMedium
from edgecompile.planning.solver import evaluate, solve


def stages(assignments: tuple[Assignment, ...], problem: Problem) -> list[tuple[str, int, int]]:
    return [(problem.hosts[stage.host].name, stage.first, stage.last) for stage in assignments]


def two_kinds(**figures: object) -> Problem:
    """Two hosts of a slow kind, two of one twice as fast."""
    given = {
        "unit_s": {"a-slow": [2.0] * 6, "b-fast": [1.0] * 6},
        "hosts": {"s1": "a-slow", "s2": "a-slow", "f1": "b-fast", "f2": "b-fast"},
        "cut_bytes": 0,
    }
    return edgecompile.problem(**{**given, **figures})  # type: ignore[arg-type]


ALL, HOSTS = range(6), range(4)


def test_pipeedge_by_hand() -> None:
    """Six equal units: one on each slow host and two on each fast one is the only way to a period of 2 s."""
    problem = two_kinds()
    found = pipeedge(problem, ALL, HOSTS)
    assert sorted(stages(found, problem), key=lambda stage: stage[1])[0][1] == 0
    assert sorted((problem.hosts[stage.host].name[0], stage.last - stage.first + 1) for stage in found) == [
        ("f", 2), ("f", 2), ("s", 1), ("s", 1),
    ]  # fmt: skip
    assert evaluate(problem, found).period_s == solve(problem).period_s == 2.0


def test_pipeedge_overlaps_sending_with_computing_and_forgets_the_data_host() -> None:
    """A period is the larger of computing and sending; that inputs and results travel, it does not see."""
    problem = two_kinds(cut_bytes=[8, 3, 3, 3, 3, 3, 8], bandwidth=1.0, data_host="s1")
    found = pipeedge(problem, ALL, HOSTS)
    assert max(stage.compute_s for stage in evaluate(problem, found).stages) <= 3.0
    assert len(found) > 1
    assert evaluate(problem, found).period_s >= 8.0


def test_the_shipped_program_plans_the_second_type_as_the_first() -> None:
    """With two slow hosts listed first it takes the fast ones to be slow, too: four stages of 1 or 2 units, 4 s."""
    problem = two_kinds()
    found = pipeedge_shipped(problem, ALL, HOSTS)
    blind = replace(problem, kinds=(problem.kinds[0], replace(problem.kinds[0], name="b-fast")))
    assert found == pipeedge(blind, ALL, HOSTS)
    assert evaluate(problem, found).period_s == 4.0
    one_each = edgecompile.problem(unit_s={"a": [2.0, 2.0, 2.0], "b": [1.0, 1.0, 1.0]}, hosts={"x": "a", "y": "b"})
    assert pipeedge_shipped(one_each, range(3), range(2)) == pipeedge(one_each, range(3), range(2))


def test_layers_are_not_cut() -> None:
    problem = two_kinds()
    found = pipeedge(problem, [0, 2, 4], HOSTS)
    assert {stage.first for stage in found} <= {0, 2, 4}
    assert evaluate(problem, found).period_s == 2.0 * 2
    assert evaluate(problem, pipeedge_shipped(problem, [0], HOSTS)).period_s in (6.0, 12.0)


def test_exos_ring_by_hand() -> None:
    """12 layers over 8, 4, 2 and 2 GB: 6, 3, and of 1.5 each the first gets 1, since it ends at 10.5, the last 2."""
    found = greedy_memory(range(12), 12, range(4), [2, 8, 2, 4], ["a", "b", "c", "d"])
    assert [(stage.host, stage.first, stage.last) for stage in found] == [(1, 0, 5), (3, 6, 8), (2, 9, 9), (0, 10, 11)]
    few = greedy_memory([0, 5], 9, range(3), [100, 1, 1], ["a", "b", "c"])
    assert [(stage.host, stage.first, stage.last) for stage in few] == [(0, 0, 4), (1, 5, 8)]
    assert greedy_memory(range(3), 3, [2], [1, 1, 1], ["a", "b", "c"]) == (Assignment(first=0, last=2, host=2),)


def published(problem: Problem, cuts: tuple[int, ...], hosts: tuple[int, ...]) -> float:
    """The period as the paper has it; infinite where a stage does not fit."""
    longest = 0.0
    for place, host in enumerate(hosts):
        first, end, kind = cuts[place], cuts[place + 1], problem.kinds[problem.hosts[host].kind]
        shared = sum(
            weight.num_bytes for weight in problem.shared_weights for unit in set(weight.units) if first <= unit < end
        )
        needed = sum(problem.weight_bytes[first:end]) + shared - sum(kind.saved_bytes[first:end])
        needed += problem.cut_bytes[first] + problem.cut_bytes[end] + problem.exit_bytes[end]
        needed += problem.entry_bytes[first] if first else 0
        if needed >= problem.hosts[host].memory_bytes - kind.runtime_bytes:
            return math.inf
        longest = max(longest, sum(kind.unit_s[first:end]))
        if place + 1 < len(hosts):
            longest = max(longest, problem.cut_bytes[end] / rate(problem, host, hosts[place + 1]))
    return longest


def rate(problem: Problem, source: int, destination: int) -> float:
    links = problem.links
    if isinstance(links, PairwiseLinks):
        return links.bandwidth_bytes_per_s[source][destination]
    rates = [problem.hosts[host].bandwidth_bytes_per_s for host in (source, destination)]
    rates += [links.bandwidth_bytes_per_s] if isinstance(links, SharedMedium) else []
    return min(math.inf if value is None else value for value in rates)


def test_pipeedge_is_the_best_by_its_own_view_of_the_costs() -> None:
    done = 0
    for seed in range(250):
        problem = draw_problem(random.Random(seed))
        count, hosts = len(problem.weight_bytes), range(len(problem.hosts))
        least = min(
            published(problem, (0, *inner, count), chosen)
            for stages in range(1, min(count, len(hosts)) + 1)
            for inner in itertools.combinations(range(1, count), stages - 1)
            for chosen in itertools.permutations(hosts, stages)
        )
        if math.isinf(least):
            with pytest.raises(Infeasible, match="no way of cutting fits by its own count of memory"):
                pipeedge(problem, range(count), hosts)
            continue
        found = pipeedge(problem, range(count), hosts)
        cuts = (*(stage.first for stage in found), count)
        assert published(problem, cuts, tuple(stage.host for stage in found)) == pytest.approx(least, rel=1e-9), seed
        done += 1
    assert done > 50


def test_no_baseline_beats_the_exact_scheduler() -> None:
    for seed in range(100):
        problem = draw_problem(random.Random(seed))
        bare = replace(problem, pins=(), together=(), excluded_hosts=(), host_order=None, max_hosts=None,
                       latency_limit_s=None, period_limit_s=None, objective=type(problem.objective).PERIOD)  # fmt: skip
        count, hosts = range(len(bare.weight_bytes)), range(len(bare.hosts))
        for scheduler in (pipeedge, pipeedge_shipped):
            try:
                period_s = evaluate(bare, scheduler(bare, count, hosts)).period_s
            except Infeasible:
                continue
            assert solve(bare).period_s <= period_s, (seed, scheduler)


def test_too_many_combinations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_WORK", 1000)
    with pytest.raises(UserError, match="9 combinations of hosts are more than PipeEdge's algorithm can look at"):
        pipeedge(two_kinds(), ALL, HOSTS)
