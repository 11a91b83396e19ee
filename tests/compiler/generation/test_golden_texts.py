"""The shards must score golden texts as the model does: tokens alone would not tell, where a text repeats itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compiler_helpers import Compile
from tiny_language import VOCABULARY, longrope, tiny

from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import StateSpec
from edgecompile.generation.golden_texts import RunStage, check_steps, compare_texts, golden_texts
from edgecompile.models.causal_step import CausalStep, check_state

STATE = tuple(StateSpec(unit=0, layer=layer, groups=2, key_size=8, value_size=8) for layer in range(3))
CHUNK, ROWS = 8, 4


def stage_of(step: CausalStep, change: Callable[[torch.Tensor], torch.Tensor] = lambda scores: scores) -> RunStage:
    """All of a model, whose scores are changed."""

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = step(*values)
        return change(found["logits"]), found["slots"]

    return RunStage(run=run, units=(0, 0), places=(2, 1))


def compared(change: Callable[[torch.Tensor], torch.Tensor], *, rounded: bool = False) -> int:
    """How many tokens stay the most likely where the stage's scores are changed."""
    step, _ = tiny("LlamaForCausalLM", "LlamaConfig", initializer_range=0.3)
    stage = stage_of(step, change)
    texts = golden_texts(step, VOCABULARY, CHUNK, seed=0)
    found = compare_texts(step, texts, [stage], STATE, CHUNK, ROWS, rounded=rounded)
    assert found.num_tokens == sum(len(text.tokens) for text in texts)
    return found.num_equal


def test_the_models_own_scores_are_right() -> None:
    assert compared(lambda scores: scores * (1 + 1e-6)) > 0


def test_other_scores_of_the_same_tokens_are_refused() -> None:
    with pytest.raises(UserError, match=r"score the tokens of golden prompt 0 otherwise than the model, by 0\.01 of"):
        compared(lambda scores: scores * 1.01)
    with pytest.raises(UserError, match=r"by 0\.0005 of the largest score"):
        compared(lambda scores: scores * 1.0005)


def test_other_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="the shards generate another text than transformers' generate"):
        compared(lambda scores: -scores)


def test_a_model_whose_later_steps_are_others_is_refused_in_any_precision() -> None:
    """Llama 4 scales what a token looks for by its place in the message, from some place on."""
    sizes = {"intermediate_size_mlp": 48, "head_dim": 8, "num_local_experts": 2, "initializer_range": 0.3,
             "no_rope_layers": [1, 0, 1], "attention_chunk_size": 64, "floor_scale": 9, "attn_scale": 1.0}  # fmt: skip
    step, _ = tiny("Llama4ForCausalLM", "Llama4TextConfig", **sizes)
    check_state(step)  # too short a text to tell
    texts = golden_texts(step, VOCABULARY, CHUNK, seed=0)
    check_steps(step, texts[2:3], STATE, CHUNK)
    with pytest.raises(
        UserError, match=r"Llama4ForCausalLM: in chunks of 8 tokens it scores golden text 1, of 15 tokens"
    ):
        check_steps(step, texts, STATE, CHUNK)


def test_where_generate_itself_differs_from_the_model_nobody_knows_what_is_right() -> None:
    """Moshi keeps a window of a text, and its mask has none."""
    sizes = {"ffn_dim": 64, "audio_vocab_size": 20, "num_codebooks": 2, "initializer_range": 0.3}
    texts = {}
    for window in (32, 6):
        step, _ = tiny("MoshiForCausalLM", "MoshiConfig", sliding_window=window, **sizes)
        texts[window] = step, golden_texts(step, VOCABULARY, CHUNK, seed=0)

    def compare(window: int) -> None:
        step, golden = texts[window]
        compare_texts(step, golden, [stage_of(step)], STATE, CHUNK, ROWS, rounded=True)

    compare(32)
    with pytest.raises(
        UserError, match=r"^MoshiForCausalLM: transformers' generate\(\) continues golden text [0-3], of"
    ):
        compare(6)


def test_steps_of_a_model_are_right_whatever_the_plan_keeps_keys_in() -> None:
    step, _ = tiny("LlamaForCausalLM", "LlamaConfig", initializer_range=0.3)
    state = [replace(spec, dtype="bf16") for spec in STATE]
    check_steps(step, golden_texts(step, VOCABULARY, CHUNK, seed=0), state, CHUNK)


def test_what_rounds_is_counted() -> None:
    assert compared(lambda scores: scores * 1.01, rounded=True) > compared(lambda scores: -scores, rounded=True)


def test_a_model_with_another_state_is_refused_before_anything_is_measured(
    compile_here: Compile, tmp_path: Path
) -> None:
    tiny("Lfm2ForCausalLM", "Lfm2Config", full_attn_idxs=[1]).reference.save_pretrained(tmp_path / "lfm2")
    with pytest.raises(UserError, match=r"^Lfm2ForCausalLM: tokens reach those behind them by more than attention"):
        compile_here("model=causal_lm", f"weights={tmp_path / 'lfm2'}", "hosts.count=1", "generation.context=32",
                     "generation.chunk=8", "generation.prompt=8", "generation.tokens=8")  # fmt: skip


def test_a_model_of_a_long_rotary_embedding_compiles(compile_here: Compile, tmp_path: Path) -> None:
    """Phi-3 with a context of 128k has one: it writes its frequencies in place, by the longest text of a message."""
    tiny("Phi3ForCausalLM", "Phi3Config", **longrope(32)).reference.save_pretrained(tmp_path / "phi3")
    plan = compile_here(
        "model=causal_lm", f"weights={tmp_path / 'phi3'}", "hosts.count=2", "generation.context=32",
        "generation.chunk=8", "generation.prompt=8", "generation.tokens=8",
    )  # fmt: skip
    assert plan.generation is not None
    assert len(plan.generation.golden) == 4
