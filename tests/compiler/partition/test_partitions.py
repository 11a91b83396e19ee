"""Manual, even and exact partitions; the seed's own examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiler_helpers import SMALL_DEIT, Compile, chain_of, hand_written, schedule_of

from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import cluster_of
from edgecompile.contract.errors import UserError
from edgecompile.frontend.chain.blocks import block_starts, sublayer_starts
from edgecompile.planning.problem import Schedule

TINY = ("model=deit_tiny",)


def first_ops(schedule: Schedule) -> list[str]:
    return [chain_of(*TINY).units[stage.first].op for stage in schedule.stages]


@pytest.mark.slow
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
def test_pipeedge_partitions(partition: list[int], expected: list[str]) -> None:
    stages = len(partition) // 2
    written = f"schedule.pipeedge_partition={partition}".replace(" ", "")
    assert first_ops(schedule_of(TINY, "schedule=manual", written, f"hosts.count={stages}"))[1:] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "partition", "expected"),
    [
        (
            ["model=bert_base", "++model.build.config={num_hidden_layers: 2, hidden_size: 48, intermediate_size: 96}"],
            "[1,2,3,3,4,4,5,8]",
            [
                "encoder.layer.0.intermediate.dense",
                "encoder.layer.0.output.dense",
                "encoder.layer.1.attention.self.query",
            ],
        ),
        (
            SMALL_DEIT,
            "[1,4,5,8,9,20,21,48]",
            ["deit.layers.1.layernorm_before", "deit.layers.2.layernorm_before", "deit.layers.5.layernorm_before"],
        ),
    ],
    ids=["bert", "deit"],
)  # fmt: skip
def test_pipeedge_partitions_of_other_models(
    compile_here: Compile, model: list[str], partition: str, expected: list[str]
) -> None:
    """Shards and all."""
    plan = compile_here(*model, "schedule=manual", f"schedule.pipeedge_partition={partition}", "hosts.count=4")
    assert [stage.first_op for stage in plan.stages[1:]] == expected


def test_cuts_by_module_name_and_unit_number() -> None:
    schedule = schedule_of(TINY, "schedule=manual", "schedule.cuts=[deit.layers.6,140]", "hosts.count=3")
    assert first_ops(schedule)[1] == "deit.layers.6.layernorm_before"
    assert schedule.stages[2].first == 140


@pytest.mark.slow
def test_unit_ranges_and_chosen_hosts(compile_here: Compile) -> None:
    plan = compile_here(
        *SMALL_DEIT, "schedule=manual", "schedule.units=[0,9,10,148]", "schedule.hosts=[local-2,local-1]"
    )
    assert [stage.units for stage in plan.stages] == [(0, 9), (10, 148)]
    assert [plan.hosts[stage.rank].name for stage in plan.stages] == ["local-2", "local-1"]
    assert plan.hosts[0].name == "local-1"


@pytest.mark.slow
def test_the_data_host_may_have_no_stage(compile_here: Compile) -> None:
    plan = compile_here(*SMALL_DEIT, "schedule=manual", "schedule.cuts=[deit.layers.6]", "hosts.count=3",
                        "schedule.hosts=[local-2,local-3]")  # fmt: skip
    assert [stage.rank for stage in plan.stages] == [1, 2]
    assert plan.stage_of_rank(0) is None


def test_even_stages_are_even() -> None:
    times = [stage.compute_s for stage in schedule_of(TINY, "schedule=even", "hosts.count=4").stages]
    assert len(times) == 4
    assert max(times) < 1.25 * min(times)


def test_exact_is_no_worse_than_even() -> None:
    even = schedule_of(TINY, "devices=mixed_edge", "schedule=even")
    exact = schedule_of(TINY, "devices=mixed_edge")
    assert exact.period_s <= even.period_s
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
        ("schedule.cuts=[900]", "expected a unit from 0 to"),
        ("schedule.cuts=[50,20]", "expected each after the one before"),
        ("schedule.hosts=[pi]", "exactly one"),
    ],
)
def test_bad_manual_partitions(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        schedule_of(TINY, "schedule=manual", override)


def test_too_few_hosts_for_the_stages() -> None:
    with pytest.raises(UserError, match=r"hosts\.count=3"):
        schedule_of(TINY, "schedule=manual", "schedule.cuts=[10,20]")


@pytest.mark.slow
def test_a_model_without_blocks_has_no_pipeedge_numbers() -> None:
    with pytest.raises(UserError, match="no repeated transformer blocks"):
        schedule_of(hand_written("Convolutions"), "schedule=manual", "schedule.pipeedge_partition=[1,48]")


def test_memory_that_does_not_suffice_says_where_and_by_how_much(compile_here: Compile, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"unit \d fits on no host: it needs .* MB on local-\d, the closest, .* short by .* MB"
    ):
        compile_here(*hand_written("Tied"), "hosts.members.local.memory=150MB")
    assert not list(tmp_path.rglob("*.*"))


def test_constraints_are_kept() -> None:
    overrides = ("devices=mixed_edge", "schedule.constraints.exclude=[orin-nano]",
                 "schedule.constraints.pin={deit.layers.3: pi5-1}", "schedule.constraints.max_hosts=3",
                 "schedule.constraints.together=[[deit.layers.4,deit.layers.5]]")  # fmt: skip
    schedule = schedule_of(TINY, *overrides)
    hosts = cluster_of(compose([*TINY, *overrides])).hosts
    names = [hosts[stage.host].name for stage in schedule.stages]
    assert "orin-nano" not in names
    assert len(names) <= 3
    units = {block: [unit.index for unit in chain_of(*TINY).units if unit.op.startswith(f"deit.layers.{block}.")]
             for block in (3, 4, 5)}  # fmt: skip
    holder = next(stage for stage in schedule.stages if stage.first <= units[3][0] <= stage.last)
    assert hosts[holder.host].name == "pi5-1"
    assert units[3][-1] <= holder.last
    assert not any(units[4][0] < stage.first <= units[5][-1] for stage in schedule.stages)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pipeedge", "pipeedge_shipped", "greedy_memory"])
def test_schedulers_of_other_systems_are_costed_as_all_plans_are(method: str) -> None:
    cluster = ("devices=jetson_cluster", "microbatch=8")
    schedule, best = schedule_of(TINY, f"schedule={method}", *cluster), schedule_of(TINY, *cluster)
    assert schedule.period_s >= best.period_s
    assert schedule.certificate.method == method
    assert schedule.certificate.lower_bound_s == pytest.approx(best.period_s)
    layers = {"pipeedge_shipped": sublayer_starts, "greedy_memory": block_starts}
    if method in layers:
        starts = layers[method](chain_of(*TINY))
        assert len(starts) == {"pipeedge_shipped": 48, "greedy_memory": 12}[method]
        assert {stage.first for stage in schedule.stages} <= set(starts)


@pytest.mark.slow
def test_a_baseline_that_does_not_fit_says_so() -> None:
    words = ("devices=local", "hosts.count=2", "devices.local.memory=175MB")
    with pytest.raises(UserError, match=r"^schedule=greedy_memory: stage 0 .units .* needs .* short by"):
        schedule_of(TINY, "schedule=greedy_memory", *words)
    with pytest.raises(UserError, match=r"^schedule=pipeedge: no way of cutting fits by its own count of memory"):
        schedule_of(TINY, "schedule=pipeedge", *words)


@pytest.mark.slow
def test_a_model_without_blocks_has_its_units_for_layers() -> None:
    model = hand_written("Convolutions")
    units = {unit.index for unit in chain_of(*model).units}
    for method in ("pipeedge_shipped", "greedy_memory"):
        schedule = schedule_of(model, f"schedule={method}", "hosts.count=3")
        assert {stage.first for stage in schedule.stages} <= units
    with pytest.raises(UserError, match="schedule=pipeedge makes the stages itself"):
        schedule_of(model, "schedule=pipeedge", "schedule.cuts=[1]")
