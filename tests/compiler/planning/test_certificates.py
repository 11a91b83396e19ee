"""What is proved of a schedule, and what the scheduler refuses, in the user's words."""

from __future__ import annotations

from itertools import combinations

import pytest
from compiler_helpers import chain_of, hand_written, schedule_of

from edgecompile.contract.errors import UserError
from edgecompile.partition import stages as module
from edgecompile.planning.problem import Infeasible

FORKED = (*hand_written("Forked"), "microbatch=4000")
HOSTS = ("hosts.count=3", "hosts.members.local.bandwidth=3Gbps")
CUTS = ("schedule=manual", "schedule.cuts=[2,5]")


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hosts.members.local.memory=165MB"], "unit 4 fits on no host: .* short by"),
        (["hosts.members.local.memory=165MB", *CUTS], r"stage 0 \(units 0-1\) needs .* on local-1"),
        (["schedule.constraints.min_throughput=1e9"], "above the period that schedule.constraints.min_throughput asks"),
        (["schedule.constraints.max_latency=1ns"], r"above schedule\.constraints\.max_latency = 1 ns"),
        (
            ["schedule.constraints.exclude=[local-1,local-2,local-3]"],
            r"no host is left to run a stage: schedule\.constraints\.exclude and schedule\.constraints\.host_order",
        ),
        (
            ["schedule.constraints.exclude=[local-1]", "schedule.constraints.pin={0: local-1}"],
            r"^schedule\.constraints\.pin, schedule\.constraints\.exclude and .* leave no host for unit 0",
        ),
    ],
)
def test_what_does_not_fit_keeps_its_type(overrides: list[str], message: str) -> None:
    with pytest.raises(Infeasible, match=message):
        schedule_of(FORKED, *HOSTS, *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.constraints.max_hosts=0", r"^invalid value 0 for schedule\.constraints\.max_hosts: expected 1 to "),
        ("schedule.state_budget=0", r"^invalid value 0 for schedule\.state_budget: expected 1 or more"),
        (
            "schedule.constraints.host_order=[local-1,local-1]",
            r"for schedule\.constraints\.host_order: expected .* each once",
        ),
        ("schedule.constraints.host_order=[pi]", r"^schedule\.constraints\.host_order: no host 'pi'"),
        ("schedule.constraints.max_latency=soon", r"for schedule\.constraints\.max_latency"),
    ],
)
def test_limits_that_are_not_allowed(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        schedule_of(FORKED, *HOSTS, override)
    assert not isinstance(caught.value, Infeasible)


def test_a_bug_of_ours_is_no_error_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[int]:
        raise ValueError("max_hosts was not counted")

    monkeypatch.setattr(module, "_even_starts", broken)
    with pytest.raises(ValueError, match=r"^max_hosts was not counted") as caught:
        schedule_of(FORKED, *HOSTS, "schedule=even")
    assert not isinstance(caught.value, UserError)


# --- lower bounds of given stages --------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["fp32", "int8"])
@pytest.mark.parametrize("method", [CUTS, ("schedule=even",), ("schedule=single",)])
def test_the_bound_is_the_best_period_in_that_format(wire: str, method: tuple[str, ...]) -> None:
    """Wherever it cuts: not only where the given stages do."""
    best = schedule_of(FORKED, *HOSTS, f"wire={wire}")
    assert len(best.stages) > 1
    given = schedule_of(FORKED, *HOSTS, f"wire={wire}", *method)
    assert given.certificate.method == method[0].removeprefix("schedule=")
    assert given.certificate.lower_bound_s == pytest.approx(best.period_s, rel=1e-9)
    assert given.certificate.gap == pytest.approx(1 - best.period_s / given.period_s)


def test_constraints_do_not_raise_the_bound() -> None:
    """Given stages need not keep them."""
    best = schedule_of(FORKED, *HOSTS)
    limits = ("max_hosts=1", "together=[[0,19]]", "exclude=[local-2]", "pin={0: local-1}", "max_latency=1ns")
    given = schedule_of(FORKED, *HOSTS, *CUTS, *(f"schedule.constraints.{limit}" for limit in limits))
    assert given.certificate.lower_bound_s == pytest.approx(best.period_s, rel=1e-9)


@pytest.mark.slow
def test_the_bound_of_several_formats_holds_for_all_cuts() -> None:
    bounds, periods = set(), []
    for first, second in combinations(range(1, len(chain_of(*FORKED).units), 6), 2):
        for formats in ("[int8,fp16]", "[fp16,int8]"):
            given = schedule_of(FORKED, *HOSTS, "schedule=manual", f"schedule.cuts=[{first},{second}]",
                                f"wire.per_cut={formats}")  # fmt: skip
            assert given.certificate.method == "given"
            bounds.add(given.certificate.lower_bound_s)
            periods.append(given.period_s)
    assert len(bounds) == 1
    assert 0 < bounds.pop() <= min(periods)


def test_one_format_for_every_cut_is_the_same_as_that_format() -> None:
    one = schedule_of(FORKED, *HOSTS, *CUTS, "wire=int8")
    assert schedule_of(FORKED, *HOSTS, *CUTS, "wire.per_cut=[int8,int8]") == one


def test_without_a_best_plan_the_given_one_keeps_its_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("mini-pc", "orin-nano", "laptop", "pi5-1", "pi5-2")
    unequal = ("devices=mixed_edge", *(f"hosts.members.{name}.bandwidth=100Gbps" for name in names))
    best_s = schedule_of(FORKED, *unequal).period_s
    bounded = schedule_of(FORKED, *unequal, *CUTS, "schedule.state_budget=1").certificate
    assert bounded.method == "given"
    assert 0 < bounded.lower_bound_s < best_s

    def nothing_found(*_: object) -> None:
        raise Infeasible("no plan was found within state_budget = 1")

    monkeypatch.setattr(module, "solve", nothing_found)
    given = schedule_of(FORKED, *unequal, *CUTS).certificate
    assert given.method == "given"
    assert 0 < given.lower_bound_s <= bounded.lower_bound_s
    assert given.gap == pytest.approx(1 - given.lower_bound_s / given.period_s)
