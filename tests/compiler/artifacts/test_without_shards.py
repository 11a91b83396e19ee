"""artifact=none: the same plan, nothing written beside it, and nothing that a rank could run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from compiler_helpers import compile_into, hand_written

from edgecompile.commands.compile_command import compose
from edgecompile.config.request import request_of
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import files_of_plan, read_plan, read_run_plan, write_plan


def without_files(plan: Plan) -> Plan:
    """What of a plan does not depend on whether shards were written."""

    def stages(given: Plan) -> Plan:
        return replace(given, stages=tuple(
            replace(stage, shard="", sha256="", artifact="none", weights=()) for stage in given.stages
        ))  # fmt: skip

    contingencies = tuple(
        replace(item, stages=stages(replace(plan, stages=item.stages)).stages) for item in plan.contingencies
    )
    return replace(stages(plan), version=2, notes=(), golden=None, provenance=None,  # type: ignore[arg-type]
                   contingencies=contingencies)  # fmt: skip


@pytest.mark.slow
def test_the_plan_is_the_one_with_shards(tmp_path: Path) -> None:
    words = (*hand_written("Forked"), "hosts.count=3", "contingency=1", "wire=fp16")
    plan = compile_into(tmp_path / "none", *words, "artifact=none")
    other = compile_into(tmp_path / "shards", *words)
    assert len(plan.contingencies) == 2
    assert without_files(plan) == without_files(other)
    assert [path.name for path in (tmp_path / "none").rglob("*") if path.is_file()] == ["plan.yaml"]
    assert [path.name for path, _ in files_of_plan(plan, tmp_path / "none" / "plan.yaml")] == ["plan.yaml"]
    assert any(note.startswith("artifact=none: no shards were written") for note in plan.notes)
    assert not plan.has_shards
    assert other.has_shards
    with pytest.raises(UserError, match="a plan without shards, compiled with artifact=none: compile it again"):
        read_run_plan(tmp_path / "none" / "plan.yaml")
    with pytest.raises(UserError, match=r"stages\.0\.artifact: expected none of all stages, without shards"):
        write_plan(replace(plan, stages=(other.stages[0], *plan.stages[1:])), tmp_path / "mixed.yaml")
    with pytest.raises(UserError, match=r"golden\.file: expected empty"):
        write_plan(replace(plan, golden=other.golden), tmp_path / "golden.yaml")
    assert read_plan(tmp_path / "none" / "plan.yaml") == plan


@pytest.mark.slow
def test_a_language_models_plan_says_how_fast_it_should_be(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                         vocab_size=100, max_position_embeddings=64)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    words = ("model=causal_lm", f"weights={tmp_path / 'llama'}", "hosts.count=2", "generation.context=48",
             "generation.chunk=8", "generation.prompt=8", "generation.tokens=8")  # fmt: skip
    plan = compile_into(tmp_path / "none", *words, "artifact=none").generation
    other = compile_into(tmp_path / "shards", *words).generation
    assert plan is not None
    assert other is not None
    assert plan.golden == ()
    assert plan == replace(other, golden=(), perplexity=None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["artifact=none", "artifact.per_stage=[pt2,pt2]"], "artifact.per_stage: a plan has shards or none"),
        (["artifact.per_stage=[none,pt2]"], "artifact.per_stage: a plan has shards or none"),
        (["artifact=none", "reference=true"], "reference=true writes the unsplit model .*: artifact=none has none"),
    ],
)
def test_what_goes_with_shards_alone(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        request_of(compose(words))
