"""Shards chained equal the eager model: compile_model() itself compares them with the model in float64.

What is asserted here on top: that the comparison covered every output, and what the plan says of the run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compiler_helpers import HAND_WRITTEN, SMALL_DEIT, Compile, compile_into, hand_written

from edgecompile.errors import UserError
from edgecompile.plan import Plan, read_plan

RUNTIME_BYTES = 165_000_000
"""What devices=local says of the runtime itself."""
SMALL = "hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64"
VISION = "{pixel_values: {shape: [3, 32, 32], dtype: float32}}"
TEXT = "{input_ids: {shape: [12], dtype: int64}, attention_mask: {shape: [12], dtype: int64}}"
IDS = "{input_ids: {shape: [12], dtype: int64}}"
DECODER = f"{SMALL}, vocab_size: 64, max_position_embeddings: 32"

ARCHITECTURES = {
    "ViTForImageClassification": (f"{SMALL}, image_size: 32, patch_size: 8", VISION),
    "DeiTForImageClassification": (f"{SMALL}, image_size: 32, patch_size: 8", VISION),
    "ResNetForImageClassification": ("embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1]", VISION),
    "ConvNextForImageClassification": ("hidden_sizes: [8, 16], depths: [1, 1], num_stages: 2", VISION),
    "SwinForImageClassification": (
        "image_size: 32, patch_size: 2, embed_dim: 16, depths: [2, 2], num_heads: [2, 4], window_size: 4",
        VISION,
    ),
    "CLIPVisionModel": (f"{SMALL}, image_size: 32, patch_size: 8", VISION),
    "SegformerForImageClassification": (
        "hidden_sizes: [8, 8, 16, 16], depths: [1, 1, 1, 1], num_attention_heads: [1, 1, 2, 2], "
        "decoder_hidden_size: 16",
        VISION,
    ),
    "Dinov2Model": (f"{SMALL.replace(', intermediate_size: 64', '')}, image_size: 32, patch_size: 8", VISION),
    "BertModel": (f"{SMALL}, vocab_size: 64", TEXT),
    "BertForSequenceClassification": (f"{SMALL}, vocab_size: 64", TEXT),
    "RobertaModel": (f"{SMALL}, vocab_size: 64, max_position_embeddings: 40", TEXT),
    "DistilBertModel": ("dim: 32, n_layers: 2, n_heads: 4, hidden_dim: 64, vocab_size: 64", TEXT),
    "AlbertModel": (f"{SMALL}, embedding_size: 16, vocab_size: 64", TEXT),
    "ElectraModel": (f"{SMALL}, embedding_size: 16, vocab_size: 64", TEXT),
    "GPT2LMHeadModel": ("n_embd: 32, n_layer: 2, n_head: 4, vocab_size: 64, n_positions: 32", IDS),
    "OPTModel": ("hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, ffn_dim: 64, vocab_size: 64, "
                 "max_position_embeddings: 32, word_embed_proj_dim: 32", IDS),
    "LlamaForCausalLM": (DECODER, IDS),
    "Qwen2ForCausalLM": (f"{DECODER}, num_key_value_heads: 2", IDS),
    "MistralModel": (f"{DECODER}, num_key_value_heads: 2", TEXT),
    "T5EncoderModel": ("d_model: 32, num_layers: 2, num_heads: 4, d_kv: 8, d_ff: 64, vocab_size: 64", TEXT),
}  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_architectures_at_three_stages(compile_here: Compile, architecture: str) -> None:
    config, inputs = ARCHITECTURES[architecture]
    plan = compile_here(
        "model=transformers",
        f"model.build.architecture={architecture}",
        f"+model.build.config={{{config}}}",
        f"model.inputs={inputs}",
        "microbatch=2",
        "hosts.count=3",
        "schedule=even",
    )
    assert len(plan.stages) == 3
    assert set(plan.golden.tolerance) == {spec.name for spec in plan.outputs}


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
        shard = torch.jit.load(tmp_path / "outputs" / stage.shard)
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
    reference = torch.jit.load(tmp_path / "outputs" / plan.golden.reference)
    results = reference(*(torch.ones(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in plan.inputs))
    assert [list(value.shape) for value in results] == [list(spec.shape) for spec in plan.outputs]
