"""Shards chained equal the eager model: compile_model() itself compares them with the model in float64.

What is asserted here on top: that the comparison covered every output, and what the plan says of the run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compiler_helpers import HAND_WRITTEN, SMALL_DEIT, Compile, compile_into, hand_written

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution import torchscript

pytestmark = pytest.mark.slow

RUNTIME_BYTES = 165_000_000
"""What devices=local says of the runtime itself."""


def compile_hand_written(compile_here: Compile, name: str, *overrides: str) -> Plan:
    return compile_here(*hand_written(name), *overrides)


@pytest.mark.parametrize("name", HAND_WRITTEN)
@pytest.mark.parametrize("stages", [1, 2, 5])
@pytest.mark.parametrize("microbatch", [1, 4])
def test_hand_written_modules(compile_here: Compile, name: str, stages: int, microbatch: int) -> None:
    plan = compile_hand_written(
        compile_here, name, f"hosts.count={stages}", "schedule=even", f"microbatch={microbatch}"
    )
    assert len(plan.stages) == min(stages, len(plan.units))


@pytest.mark.parametrize("name", sorted(set(HAND_WRITTEN) - {"InPlace", "Encoder"}))
def test_symbolic_trace_gives_the_same_model(compile_here: Compile, name: str) -> None:
    plan = compile_hand_written(compile_here, name, "hosts.count=3", "schedule=even", "capture=symbolic_trace")
    assert plan.model.capture == "symbolic_trace"


def test_symbolic_trace_says_what_stands_in_its_way(compile_here: Compile) -> None:
    with pytest.raises(UserError, match=r"item assignment.*capture=export"):
        compile_hand_written(compile_here, "InPlace", "capture=symbolic_trace")


def test_what_a_run_may_differ_by_is_rounding(compile_here: Compile) -> None:
    """Also where the model in float64 takes another path than it takes in float32."""
    plan = compile_hand_written(compile_here, "Encoder", "schedule=even")
    assert all(0 < tolerance < 1e-4 for tolerance in plan.golden.tolerance.values())


def test_every_cut_of_a_forked_model_works(compile_here: Compile, tmp_path: Path) -> None:
    """Each unit a stage of its own: integers, bools, skips and results of the middle cross every boundary."""
    probe = compile_hand_written(compile_here, "Forked", "schedule=single")
    num_units = len(probe.units)
    plan = compile_hand_written(compile_here, "Forked", "schedule=even", f"hosts.count={num_units}", "microbatch=3")
    dtypes = {spec.dtype for stage in plan.stages for spec in stage.outputs}
    assert {"float32", "int64", "bool"} <= dtypes
    assert [spec.name for spec in plan.outputs] == ["scores", "best", "states.0", "states.1", "kept", "count"]


def test_shared_weights_count_once_a_stage(compile_here: Compile) -> None:
    whole = compile_hand_written(compile_here, "Tied", "schedule=single")
    table_bytes = 50 * 16 * 4
    weights = whole.model.num_parameters * 4
    assert [item.num_bytes for item in whole.shared_weights] == [table_bytes]
    assert sum(unit.weight_bytes for unit in whole.units) + table_bytes == weights
    # as many as arrive, and one more where the data host fills and takes them itself
    num_in, num_out = whole.runtime.num_buffers_in, whole.runtime.num_buffers_out
    buffers = (num_in + 1) * (sum(s.num_bytes for s in whole.inputs) + sum(s.num_bytes for s in whole.outputs))
    peak = max(unit.activation_bytes for unit in whole.units)
    kept = 2 * (num_in + num_out) * sum(spec.num_bytes for spec in whole.inputs)
    assert whole.stages[0].predicted.memory_bytes == RUNTIME_BYTES + weights + buffers + peak + kept
    split = compile_hand_written(compile_here, "Tied", "schedule=even", "hosts.count=2")
    assert all(stage.predicted.memory_bytes > RUNTIME_BYTES + table_bytes for stage in split.stages)


@pytest.fixture(scope="module")
def deit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """deit_tiny itself in four stages."""
    folder = tmp_path_factory.mktemp("deit")
    return compile_into(folder, "model=deit_tiny", "hosts.count=4", "schedule=even"), folder


def test_shards_hold_only_their_own_weights(deit: tuple[Plan, Path]) -> None:
    plan, folder = deit
    sizes = [(folder / stage.shard).stat().st_size for stage in plan.stages]
    assert sum(sizes) < plan.model.num_parameters * 4 * 1.1


def test_units_are_operators_not_blocks(deit: tuple[Plan, Path]) -> None:
    plan, _ = deit
    for block in range(12):
        units = [unit for unit in plan.units if unit.op.startswith(f"deit.layers.{block}.")]
        assert len(units) >= 9
    assert len(plan.units) >= 10 * 12


def test_the_plan_reads_back(deit: tuple[Plan, Path]) -> None:
    plan, folder = deit
    assert read_plan(folder / "plan.yaml") == plan


def test_no_operator_of_a_shard_names_a_device(compile_here: Compile, tmp_path: Path) -> None:
    config = "{num_hidden_layers: 1, hidden_size: 48, intermediate_size: 96, vocab_size: 64}"
    plan = compile_here("model=bert_base", f"++model.build.config={config}", "hosts.count=2", "schedule=even")
    for stage in plan.stages:
        shard = torchscript.load(tmp_path / "outputs" / stage.shard)
        assert not any(
            node.kind() == "prim::Constant" and str(next(node.outputs()).type()) == "Device"
            for node in shard.inlined_graph.nodes()
        )


def test_formats_of_shards_can_be_mixed(compile_here: Compile, tmp_path: Path) -> None:
    digests = []
    for _ in range(2):
        plan = compile_hand_written(compile_here, "Forked", "schedule=even", "artifact.per_stage=[pt2,torchscript]")
        digests.append([stage.sha256 for stage in plan.stages])
    assert digests[0] == digests[1]
    assert [stage.artifact for stage in plan.stages] == ["pt2", "torchscript"]
    assert all((tmp_path / "outputs" / stage.shard).is_file() for stage in plan.stages)
    with pytest.raises(UserError, match="names 3 formats, but there are 2 stages"):
        compile_hand_written(compile_here, "Forked", "schedule=even", "artifact.per_stage=[pt2,torchscript,pt2]")


def test_images_may_travel_as_bytes(compile_here: Compile) -> None:
    plan = compile_here(*SMALL_DEIT, "data.pixels=uint8", "microbatch=2")
    assert (plan.inputs[0].dtype, plan.inputs[0].num_bytes) == ("uint8", 2 * 3 * 32 * 32)
    with pytest.raises(UserError, match=r"data\.pixels: uint8 is for"):
        compile_hand_written(compile_here, "Tied", "data.pixels=uint8")


def test_the_unsplit_model_is_kept_on_request(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_hand_written(compile_here, "Forked", "reference=true", "schedule=even")
    assert plan.golden.reference is not None
    reference = torchscript.load(tmp_path / "outputs" / plan.golden.reference)
    results = reference(*(torch.ones(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in plan.inputs))
    assert [list(value.shape) for value in results] == [list(spec.shape) for spec in plan.outputs]
