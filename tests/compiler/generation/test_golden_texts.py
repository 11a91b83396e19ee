"""The shards must score golden texts as the model does: tokens alone would not tell, where a text repeats itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compiler_helpers import Compile
from tiny_language import VOCABULARY, tiny

from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import StateSpec
from edgecompile.generation.golden_texts import RunStage, compare_texts, golden_texts

STATE = tuple(StateSpec(unit=0, layer=layer, groups=2, key_size=8, value_size=8) for layer in range(3))
CHUNK, ROWS = 8, 4


def compared(change: Callable[[torch.Tensor], torch.Tensor], *, rounded: bool = False) -> int:
    """How many tokens stay the most likely where the stage's scores are changed."""
    step, _ = tiny("LlamaForCausalLM", "LlamaConfig", initializer_range=0.3)

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = step(*values)
        return change(found["logits"]), found["slots"]

    stage = RunStage(run=run, units=(0, 0), places=(2, 1))
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


def test_what_rounds_is_counted() -> None:
    assert compared(lambda scores: scores * 1.01, rounded=True) > compared(lambda scores: -scores, rounded=True)


def test_a_model_with_another_state_is_refused_before_anything_is_measured(
    compile_here: Compile, tmp_path: Path
) -> None:
    tiny("Lfm2ForCausalLM", "Lfm2Config", full_attn_idxs=[1]).reference.save_pretrained(tmp_path / "lfm2")
    with pytest.raises(UserError, match=r"^Lfm2ForCausalLM: tokens reach those behind them by more than attention"):
        compile_here("model=causal_lm", f"weights={tmp_path / 'lfm2'}", "hosts.count=1", "generation.context=32",
                     "generation.chunk=8", "generation.prompt=8", "generation.tokens=8")  # fmt: skip
