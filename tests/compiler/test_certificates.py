"""What the scheduler refuses, in the user's words."""

from __future__ import annotations

import pytest
from compiler_helpers import schedule_of

from edgecompile import partition as module
from edgecompile.errors import UserError
from edgecompile.schedule import Infeasible

FORKED = (
    "model=custom",
    "model.build._target_=hand_written.Forked",
    "model.inputs={x: {shape: [6, 24], dtype: float32}, ids: {shape: [6], dtype: int64, high: 9}}",
    "microbatch=4000",
)
HOSTS = ("hosts.count=3", "hosts.members.local.bandwidth=3Gbps")
CUTS = ("schedule=manual", "schedule.cuts=[2,5]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hosts.members.local.memory=400MB"], "unit 4 fits on no host: .* too few"),
        (["hosts.members.local.memory=400MB", *CUTS], r"stage 0 \(units 0-1\) needs .* on local-1"),
        (["schedule.constraints.min_throughput=1e9"], "above the period that schedule.constraints.min_throughput asks"),
        (["schedule.constraints.max_latency=1ns"], r"above schedule\.constraints\.max_latency = 1e-09"),
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
        ("schedule.constraints.max_hosts=0", r"^schedule\.constraints\.max_hosts is 0"),
        ("schedule.state_budget=0", r"^schedule\.state_budget is 0"),
        ("schedule.constraints.host_order=[local-1,local-1]", r"^schedule\.constraints\.host_order\[1\] names host 0"),
        ("schedule.constraints.host_order=[pi]", r"^schedule\.constraints\.host_order: no host 'pi'"),
        ("schedule.constraints.max_latency=soon", r"^schedule\.constraints\.max_latency"),
    ],
)
def test_figures_that_the_scheduler_refuses(override: str, message: str) -> None:
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
