"""What is refused, and what is said when nothing fits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from edgecompile.contract.errors import UserError
from edgecompile.planning.problem import (
    Assignment,
    HostLinks,
    Infeasible,
    Kind,
    Objective,
    PairwiseLinks,
    Pin,
    Problem,
    SchedHost,
    SharedMedium,
    SharedWeight,
)
from edgecompile.planning.solver import evaluate, pareto, solve

KIND = Kind(name="pi", unit_s=(1.0, 2.0, 3.0, 4.0))
HOST = SchedHost(name="pi-0", kind=0, memory_bytes=1000, bandwidth_bytes_per_s=10.0)
PROBLEM = Problem(
    kinds=(KIND,),
    hosts=(HOST, replace(HOST, name="pi-1")),
    links=HostLinks(),
    cut_bytes=(1,) * 5,
    weight_bytes=(10,) * 4,
    activation_bytes=(1,) * 4,
    entry_bytes=(1,) * 5,
    exit_bytes=(1,) * 5,
)


def kind(**changes: Any) -> Problem:
    return replace(PROBLEM, kinds=(replace(KIND, **changes),))


def host(**changes: Any) -> Problem:
    return replace(PROBLEM, hosts=(HOST, replace(HOST, **changes)))


def pairwise(bandwidth: float, latency: float = 0.0) -> Problem:
    links = PairwiseLinks(bandwidth_bytes_per_s=((0.0, bandwidth), (1.0, 0.0)), latency_s=((0.0, latency), (0.0, 0.0)))
    return replace(PROBLEM, links=links)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (kind(unit_s=(1.0, math.nan, 1.0, 1.0)), r"kinds\[0\]\.unit_s\[1\] is nan"),
        (kind(unit_s=(1.0, -1.0, 1.0, 1.0)), r"kinds\[0\]\.unit_s\[1\] is -1"),
        (kind(unit_s=(1.0, math.inf, 1.0, 1.0)), r"kinds\[0\]\.unit_s\[1\] is inf"),
        (kind(unit_s=(1.0, 1e9, 1.0, 1.0)), r"kinds\[0\]\.unit_s\[1\].*picoseconds"),
        (kind(unit_s=(1.0, "2", 1.0, 1.0)), r"kinds\[0\]\.unit_s\[1\] is '2'"),
        (kind(unit_s=(1.0,)), r"kinds\[0\]\.unit_s has 1 entries: expected 4"),
        (kind(encode_s=(1.0,)), r"kinds\[0\]\.encode_s has 1 entries: expected 5"),
        (kind(runtime_bytes=-1), r"kinds\[0\]\.runtime_bytes is -1"),
        (kind(runtime_bytes=2**63), r"kinds\[0\]\.runtime_bytes is 9223372036854775808"),
        (replace(PROBLEM, kinds=()), "kinds is empty"),
        (replace(PROBLEM, hosts=()), "hosts is empty"),
        (host(kind=1), r"hosts\[1\]\.kind is 1"),
        (host(memory_bytes=2**62 + 1), r"hosts\[1\]\.memory_bytes"),
        (host(bandwidth_bytes_per_s=0.0), r"hosts\[1\]\.bandwidth_bytes_per_s"),
        (host(bandwidth_bytes_per_s=None), r"hosts\[1\]\.bandwidth_bytes_per_s"),
        (replace(PROBLEM, cut_bytes=(1,) * 4), "cut_bytes has 4 entries: expected 5"),
        (replace(PROBLEM, cut_bytes=(1, 1, 1.5, 1, 1)), r"cut_bytes\[2\] is 1.5"),
        (replace(PROBLEM, weight_bytes=(1, -2, 1, 1)), r"weight_bytes\[1\] is -2"),
        (replace(PROBLEM, weight_bytes=(1, 2**62, 2**62, 1)), r"weight_bytes\[1\].*2\^62"),
        (replace(PROBLEM, weight_bytes=()), "weight_bytes is empty"),
        (replace(PROBLEM, kinds=(replace(KIND, saved_bytes=(0, 11, 0, 0)),)), r"kinds\[0\].saved_bytes\[1\] is more"),
        (replace(PROBLEM, kinds=(replace(KIND, saved_bytes=(0, 1)),)), r"kinds\[0\].saved_bytes has 2 entries"),
        (replace(PROBLEM, activation_bytes=(1,)), "activation_bytes has 1 entries"),
        (replace(PROBLEM, entry_bytes=(1,)), "entry_bytes has 1 entries"),
        (replace(PROBLEM, exit_bytes=(1,)), "exit_bytes has 1 entries"),
        (
            replace(PROBLEM, shared_weights=(SharedWeight(units=(4,), num_bytes=1),)),
            r"shared_weights\[0\]\.units\[0\] is 4",
        ),
        (replace(PROBLEM, data_host=2), "data_host is 2"),
        (replace(PROBLEM, pins=(Pin(units=(1, 0), hosts=(0,)),)), r"pins\[0\]\.units"),
        (replace(PROBLEM, pins=(Pin(units=(0, 1), hosts=()),)), r"pins\[0\]\.hosts is empty"),
        (replace(PROBLEM, together=((0, 4),)), r"together\[0\]\[1\] is 4"),
        (replace(PROBLEM, together=((0, 1, 2),)), r"together\[0\] has 3 entries"),  # type: ignore[arg-type]
        (replace(PROBLEM, excluded_hosts=(2,)), r"excluded_hosts\[0\] is 2"),
        (replace(PROBLEM, host_order=()), "host_order is empty"),
        (replace(PROBLEM, host_order=(0, 0)), r"host_order\[1\] names host 0 again"),
        (replace(PROBLEM, max_hosts=0), "max_hosts is 0"),
        (replace(PROBLEM, period_limit_s=math.nan), "period_limit_s is nan"),
        (replace(PROBLEM, objective=Objective.PERIOD_UNDER_LATENCY), "latency_limit_s is missing"),
        (replace(PROBLEM, state_budget=0), "state_budget is 0"),
        (replace(PROBLEM, links=HostLinks(latency_s=-1.0)), r"links\.latency_s is -1"),
        (replace(PROBLEM, links=SharedMedium(bandwidth_bytes_per_s=math.inf)), r"links\.bandwidth_bytes_per_s is inf"),
        (pairwise(math.nan), r"links\.bandwidth_bytes_per_s\[0\]\[1\] is nan"),
        (pairwise(1.0, -1.0), r"links\.latency_s\[0\]\[1\] is -1"),
        (replace(PROBLEM, cut_bytes=(0, 2**62, 0, 0, 0)), r"cut_bytes\[1\] over the slowest link"),
    ],
)
def test_malformed_problems_are_refused(problem: Problem, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(problem)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"weight_bytes": (10, 2000, 10, 10)},
            "unit 1 fits on no host: it needs 2.003 kB on pi-0, .* short by 1.003 kB",
        ),
        (
            {"weight_bytes": (900, 900, 900, 10)},
            "units 0-3 need at least 2.713 kB; the cluster's 2 hosts have 2 kB .* short by 713 B",
        ),
        (
            {"weight_bytes": (600, 600, 600, 0)},
            "no way of cutting units 0-3 fits in memory.* each host would need 203 B more",
        ),
        ({"period_limit_s": 1.0}, "the least period is 6 s, above period_limit_s = 1 s"),
        ({"latency_limit_s": 1.0}, "the least latency is 10 s, above latency_limit_s = 1 s"),
        ({"latency_limit_s": 10.05, "period_limit_s": 6.5}, "no plan keeps both"),
        ({"weight_bytes": (600, 10, 10, 600), "max_hosts": 1}, "need at least .* the cluster's 1 host has"),
        (
            {"weight_bytes": (600, 10, 10, 600), "together": ((0, 3),)},
            "units 0-3 fits on no host: it needs 1.223 kB",
        ),
        ({"excluded_hosts": (0, 1)}, "no host is left"),
        ({"pins": (Pin(units=(0, 0), hosts=(0,)),), "excluded_hosts": (0,)}, "leave no host for unit 0"),
        (
            {"pins": (Pin(units=(0, 0), hosts=(1,)), Pin(units=(3, 3), hosts=(0,))), "host_order": (0, 1)},
            "pins = .* and host_order = .* each exclude every plan",
        ),
    ],
)
def test_infeasible_problems_say_why(changes: dict[str, Any], message: str) -> None:
    problem = replace(PROBLEM, **changes)
    with pytest.raises(Infeasible, match=message) as caught:
        solve(problem)
    assert isinstance(caught.value, UserError)
    with pytest.raises(Infeasible):
        pareto(problem)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "assignments is empty"),
        ([(0, 1, 0), (3, 3, 1)], r"assignments\[1\]\.first is 3: expected 2, or units are left out"),
        ([(0, 2, 0), (2, 3, 1)], r"assignments\[1\]\.first is 2: expected 3, or units run twice"),
        ([(0, 4, 0)], r"assignments\[0\]\.last is 4"),
        ([(0, 2, 0)], r"assignments\[0\]\.last is 2: the last unit is 3"),
        ([(0, 1, 0), (2, 3, 0)], r"assignments\[1\]\.host is 0, which runs stage 0 already"),
        ([(0, 3, 2)], r"assignments\[0\]\.host is 2"),
    ],
)
def test_evaluate_refuses_broken_plans(stages: list[tuple[int, int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(PROBLEM, [Assignment(first=i, last=j, host=h) for i, j, h in stages])


def test_evaluate_names_stage_host_and_bytes() -> None:
    problem = replace(PROBLEM, weight_bytes=(10, 10, 990, 10))
    stages = [Assignment(first=0, last=1, host=0), Assignment(first=2, last=3, host=1)]
    with pytest.raises(Infeasible, match=r"stage 1 \(units 2-3\) needs 1.003 kB on pi-1, which has 1 kB: short by 3 B"):
        evaluate(problem, stages)


def test_pareto_refuses_what_is_over_its_budget() -> None:
    with pytest.raises(ValueError, match="state_budget is 1"):
        pareto(replace(PROBLEM, state_budget=1))
