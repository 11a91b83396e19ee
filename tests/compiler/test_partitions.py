"""Manual, even and exact partitions; the seed's own examples."""

from __future__ import annotations

import pytest
from compiler_helpers import Compile

from edgecompile.errors import UserError
from edgecompile.plan import Plan

TINY = ("model=deit_tiny",)


def first_ops(plan: Plan) -> list[str]:
    return [stage.first_op for stage in plan.stages]


@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        ([1, 48], []),
        ([1, 24, 25, 48], ["deit.layers.6.layernorm_before"]),
        ([1, 47, 48, 48], ["deit.layers.11.mlp.fc2"]),
        (
            [1, 4, 5, 8, 9, 20, 21, 48],
            ["deit.layers.1.layernorm_before", "deit.layers.2.layernorm_before", "deit.layers.5.layernorm_before"],
        ),
        (
            [1, 1, 2, 2, 3, 3, 4, 48],
            ["deit.layers.0.attention.o_proj", "deit.layers.0.layernorm_after", "deit.layers.0.mlp.fc2"],
        ),
    ],
)
def test_pipeedge_partitions(compile_here: Compile, partition: list[int], expected: list[str]) -> None:
    stages = len(partition) // 2
    plan = compile_here(
        *TINY, "schedule=manual", f"schedule.pipeedge_partition={partition}".replace(" ", ""), f"hosts.count={stages}"
    )
    assert first_ops(plan)[1:] == expected


def test_pipeedge_partition_of_bert(compile_here: Compile) -> None:
    plan = compile_here(
        "model=bert_base",
        "+model.build.config.num_hidden_layers=2",
        "schedule=manual",
        "schedule.pipeedge_partition=[1,2,3,3,4,4,5,8]",
        "hosts.count=4",
    )
    assert first_ops(plan)[1:] == [
        "encoder.layer.0.intermediate.dense",
        "encoder.layer.0.output.dense",
        "encoder.layer.1.attention.self.query",
    ]


def test_cuts_by_module_name_and_unit_number(compile_here: Compile) -> None:
    plan = compile_here(*TINY, "schedule=manual", "schedule.cuts=[deit.layers.6,140]", "hosts.count=3")
    assert plan.stages[1].first_op == "deit.layers.6.layernorm_before"
    assert plan.stages[2].units[0] == 140


def test_unit_ranges_and_chosen_hosts(compile_here: Compile) -> None:
    plan = compile_here(*TINY, "schedule=manual", "schedule.units=[0,9,10,148]", "schedule.hosts=[local-2,local-1]")
    assert [stage.units for stage in plan.stages] == [(0, 9), (10, 148)]
    assert [plan.hosts[stage.rank].name for stage in plan.stages] == ["local-2", "local-1"]
    assert plan.hosts[0].name == "local-1"


def test_the_data_host_may_have_no_stage(compile_here: Compile) -> None:
    plan = compile_here(*TINY, "schedule=manual", "schedule.cuts=[deit.layers.6]", "hosts.count=3",
                        "schedule.hosts=[local-2,local-3]")  # fmt: skip
    assert [stage.rank for stage in plan.stages] == [1, 2]
    assert plan.stage_of_rank(0) is None


def test_even_stages_are_even(compile_here: Compile) -> None:
    plan = compile_here(*TINY, "schedule=even", "hosts.count=4")
    times = [stage.predicted.compute_s for stage in plan.stages]
    assert max(times) < 1.25 * min(times)


def test_exact_is_no_worse_than_even(compile_here: Compile) -> None:
    even = compile_here(*TINY, "devices=mixed_edge", "schedule=even")
    exact = compile_here(*TINY, "devices=mixed_edge")
    assert exact.predicted.period_s <= even.predicted.period_s
    assert exact.certificate.gap == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.pipeedge_partition=[1,20,25,48]", "gap"),
        ("schedule.pipeedge_partition=[1,24,20,48]", "overlap"),
        ("schedule.pipeedge_partition=[1,24,25,49]", "overshoots"),
        ("schedule.pipeedge_partition=[1,24,25,47]", "must end at 48"),
        ("schedule.pipeedge_partition=[1,24,25]", "3 numbers"),
        ("schedule.pipeedge_partition=[0,24,25,48]", "overlap"),
        ("schedule.units=[0,9,11,148]", "gap"),
        ("schedule.units=[0,9,10,900]", "overshoots"),
        ("schedule.cuts=[vit.layers.99]", "no module or operator 'vit.layers.99'"),
        ("schedule.cuts=[900]", "units are 0 to"),
        ("schedule.cuts=[50,20]", "begin after"),
        ("schedule.hosts=[pi]", "exactly one"),
    ],
)
def test_bad_manual_partitions(compile_here: Compile, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compile_here(*TINY, "schedule=manual", override)


def test_too_few_hosts_for_the_stages(compile_here: Compile) -> None:
    with pytest.raises(UserError, match=r"hosts\.count=3"):
        compile_here(*TINY, "schedule=manual", "schedule.cuts=[10,20]")


def test_a_model_without_blocks_has_no_pipeedge_numbers(compile_here: Compile) -> None:
    with pytest.raises(UserError, match="no repeated transformer blocks"):
        compile_here("model=resnet50", "+model.build.config.depths=[1,1,1,1]", "schedule=manual",
                     "schedule.pipeedge_partition=[1,48]")  # fmt: skip


def test_memory_that_does_not_suffice_says_where_and_by_how_much(compile_here: Compile) -> None:
    with pytest.raises(UserError, match="bytes"):
        compile_here(*TINY, "hosts.members.local.memory=401MB")


def test_constraints_are_kept(compile_here: Compile) -> None:
    plan = compile_here(*TINY, "devices=mixed_edge", "schedule.constraints.exclude=[orin-nano]",
                        "schedule.constraints.pin={deit.layers.3: pi5-1}", "schedule.constraints.max_hosts=3",
                        "schedule.constraints.together=[[deit.layers.4,deit.layers.5]]")  # fmt: skip
    names = [plan.hosts[stage.rank].name for stage in plan.stages]
    assert "orin-nano" not in names
    assert len(names) <= 3
    layer_3 = [unit.unit for unit in plan.units if unit.op.startswith("deit.layers.3.")]
    for stage in plan.stages:
        if stage.units[0] <= layer_3[0] <= stage.units[1]:
            assert plan.hosts[stage.rank].name == "pi5-1"
            assert layer_3[-1] <= stage.units[1]
