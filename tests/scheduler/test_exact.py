"""`solve` and `pareto` against an independent brute force, over everything a problem can say."""

from __future__ import annotations

import random
from dataclasses import replace

import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import draw_problem

from edgecompile.planning.problem import Assignment, Infeasible, Objective, Problem, Schedule
from edgecompile.planning.solver import evaluate, pareto, solve

RANDOM_PROBLEMS = 5_000


def figures(schedule: Schedule) -> tuple[int, int, int]:
    return oracle.ps(schedule.period_s), oracle.ps(schedule.latency_s), len(schedule.stages)


def check(problem: Problem) -> None:
    want = oracle.best(problem)
    if want is None:
        with pytest.raises(Infeasible):
            solve(problem)
        return
    got = solve(problem)
    cuts = (*(stage.first for stage in got.stages), len(problem.weight_bytes))
    assert (cuts, tuple(stage.host for stage in got.stages)) == (want.cuts, want.hosts)
    assert figures(got)[:2] == (want.period, want.latency)
    assert (got.certificate.gap, got.certificate.method) == (0.0, "exact")


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_random_problems_equal_brute_force(block: int) -> None:
    share = RANDOM_PROBLEMS // 10
    for seed in range(block * share, (block + 1) * share):
        problem = draw_problem(random.Random(seed))
        try:
            check(problem)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {problem}") from error


@pytest.mark.slow
def test_larger_problems_equal_brute_force() -> None:
    for seed in range(60):
        check(draw_problem(random.Random(seed), larger=True))


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_shrinking_problems_equal_brute_force(rng: random.Random) -> None:
    check(draw_problem(rng))


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), st.integers(2, 40))
def test_several_messages_equal_brute_force(rng: random.Random, messages: int) -> None:
    """The chunks of a prompt: neither the least latency nor the least period need be best."""
    problem = replace(draw_problem(rng), objective=Objective.LATENCY, messages=messages)
    found = oracle.plans(problem)
    if not found:
        with pytest.raises(Infeasible):
            solve(problem)
        return
    got = solve(problem)
    period, latency, _ = figures(got)
    want = min(plan.latency + (messages - 1) * plan.period for plan in found)
    assert latency + (messages - 1) * period == want
    assert (period, latency) in {(plan.period, plan.latency) for plan in found}
    assert (got.certificate.gap, got.certificate.method) == (0.0, "exact")
    assert oracle.ps(got.certificate.lower_bound_s) == want


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_pareto_equals_brute_force(rng: random.Random) -> None:
    problem = draw_problem(rng)
    want = oracle.front(problem)
    if not want:
        with pytest.raises(Infeasible):
            pareto(problem)
        return
    got = [figures(schedule) for schedule in pareto(problem)]
    assert len(got) == len(set(got))
    assert set(got) == want


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_evaluate_costs_every_plan_as_the_definition_does(rng: random.Random) -> None:
    problem = draw_problem(rng)
    for plan in oracle.plans(problem)[:20]:
        stages = zip(plan.cuts, plan.cuts[1:], plan.hosts, strict=False)
        got = evaluate(problem, [Assignment(first=i, last=j - 1, host=h) for i, j, h in stages])
        assert figures(got)[:2] == (plan.period, plan.latency)
        assert got.certificate.lower_bound_s <= got.period_s
        for stage in got.stages:
            assert stage.memory_bytes == oracle.memory(problem, stage.first, stage.last + 1, stage.host)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_bounded_search_is_honest(rng: random.Random) -> None:
    problem = replace(draw_problem(rng), state_budget=3)
    want = oracle.best(problem)
    try:
        got = solve(problem)
    except Infeasible:
        return
    assert want is not None
    latency = problem.objective == Objective.LATENCY
    best = want.latency if latency else want.period
    figure = oracle.ps(got.latency_s if latency else got.period_s)
    assert oracle.ps(got.certificate.lower_bound_s) <= best <= figure
    if got.certificate.gap == 0.0:
        assert figure == best


def test_same_problem_same_plan() -> None:
    problem = draw_problem(random.Random(4))
    assert len({repr(solve(problem)) for _ in range(5)}) == 1
