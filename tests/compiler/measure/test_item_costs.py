"""What items take of the data host's cores: measured, kept in profiles, and counted for its stage alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from compiler_helpers import SMALL_DEIT, Compile

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan, write_plan
from edgecompile.measure.machine_costs.item_costs import measure_items, measure_text
from edgecompile.planning.from_plan import as_planned, planned_again
from edgecompile.profile.analytic import ItemCost


def test_both_are_measured_and_tokens_cost_more_than_none() -> None:
    assert 0 < measure_items() < 0.1
    text = measure_text()
    assert text is not None
    assert 0 < text.token_cpu_s < 0.01
    assert 0 <= text.fixed_cpu_s < 0.1


def test_a_message_takes_what_its_items_and_their_tokens_take() -> None:
    cost = ItemCost(item_s=2.0, text_s=3.0, token_s=0.5)
    assert cost.of_message(4, None) == 8.0
    assert cost.of_message(4, 10.0) == 4 * 2 + 4 * 3 + 10 * 0.5


@pytest.fixture
def plan(compile_here: Compile) -> Plan:
    return compile_here(*SMALL_DEIT, "hosts.count=3", "microbatch=2", "schedule=even")


def with_feeding(plan: Plan, feed_s: float) -> Plan:
    return replace(plan, scheduling=replace(plan.scheduling, feed_s=feed_s))


def test_only_the_stage_of_the_data_host_takes_longer(plan: Plan) -> None:
    before, after = as_planned(plan)[1], as_planned(with_feeding(plan, 0.5))[1]
    grown = [later.compute_s - sooner.compute_s for sooner, later in zip(before.stages, after.stages, strict=True)]
    hosts = [stage.host for stage in before.stages]
    assert sorted(hosts) == [0, 1, 2]
    assert [round(value, 9) for value in grown] == [0.5 if host == 0 else 0.0 for host in hosts]
    assert after.period_s == pytest.approx(max(stage.compute_s for stage in after.stages))


def test_the_data_host_is_given_less_to_compute(plan: Plan) -> None:
    exact = replace(plan, scheduling=replace(plan.scheduling, method="exact"))
    whole = sum(stage.compute_s for stage in planned_again(exact)[1].stages)
    burdened = planned_again(with_feeding(exact, whole))[1]
    assert all(stage.host != 0 for stage in burdened.stages)


def test_a_plan_keeps_it(plan: Plan, tmp_path: Path) -> None:
    changed = with_feeding(plan, 0.25)
    write_plan(changed, tmp_path / "outputs" / "other.yaml")
    assert read_plan(tmp_path / "outputs" / "other.yaml").scheduling.feed_s == 0.25
    assert "feed_s" not in (tmp_path / "outputs" / "plan.yaml").read_text()
