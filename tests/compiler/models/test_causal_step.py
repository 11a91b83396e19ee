"""A causal language model as a step scores what transformers' own model scores; one that cannot be a step says why."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tiny_language import CONTEXT, VOCABULARY, WINDOW, longrope, tiny

from edgecompile.contract.errors import UserError
from edgecompile.models.causal_step import check_state

LONG, SHORT = 20, 11
CASES: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "LlamaForCausalLM": ("LlamaConfig", {}, [0, 0, 0]),
    "Qwen2ForCausalLM": ("Qwen2Config", {}, [0, 0, 0]),
    "Qwen3ForCausalLM": ("Qwen3Config", {"head_dim": 8}, [0, 0, 0]),
    "MistralForCausalLM": ("MistralConfig", {"sliding_window": WINDOW}, [WINDOW] * 3),
    "Gemma2ForCausalLM": ("Gemma2Config", {"sliding_window": WINDOW, "head_dim": 8}, [WINDOW, 0, WINDOW]),
    "Gemma3ForCausalLM": (
        "Gemma3TextConfig",
        {"sliding_window": WINDOW, "head_dim": 8,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        [WINDOW, 0, WINDOW],
    ),
    "Phi3ForCausalLM": ("Phi3Config", {}, [0, 0, 0]),
    "GPT2LMHeadModel": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}, [0, 0, 0]),
    "OPTForCausalLM": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}, [0, 0, 0]),
    "Olmo2ForCausalLM": ("Olmo2Config", {}, [0, 0, 0]),
}  # fmt: skip
"""By architecture: its config's class, values of it, and the window of each layer."""


@pytest.mark.parametrize("architecture", CASES)
def test_a_step_scores_what_transformers_scores(architecture: str) -> None:
    config, values, windows = CASES[architecture]
    step, reference = tiny(architecture, config, **values)
    assert step.windows == windows
    ids = torch.randint(0, VOCABULARY, (2, LONG))
    positions = torch.arange(LONG).repeat(2, 1)
    positions[1, SHORT:] = -1
    with torch.no_grad():
        got = step(ids, positions, torch.tensor([3, 4]))
        whole = reference(input_ids=ids[:1]).logits[:, -1]
        padded = reference(input_ids=ids[1:, :SHORT]).logits[:, -1]
    assert got["slots"].tolist() == [3, 4]
    torch.testing.assert_close(got["logits"], torch.cat([whole, padded]), rtol=1e-4, atol=1e-5)


def test_what_stands_behind_the_last_token_changes_nothing() -> None:
    step, _ = tiny("MistralForCausalLM", "MistralConfig", sliding_window=WINDOW)
    ids = torch.randint(0, VOCABULARY, (1, LONG))
    positions = torch.arange(LONG).unsqueeze(0)
    positions[:, SHORT:] = -1
    other = ids.clone()
    other[:, SHORT:] = 7
    with torch.no_grad():
        one, two = (step(tokens, positions, torch.tensor([0]))["logits"] for tokens in (ids, other))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert one.isfinite().all()


def test_generated_is_what_greedy_choice_gives_step_by_step() -> None:
    step, reference = tiny("LlamaForCausalLM", "LlamaConfig")
    prompt = torch.randint(0, VOCABULARY, (1, 7))
    made = step.generated(prompt, 6)
    tokens = prompt
    with torch.no_grad():
        for token in made:
            scores = step(tokens, torch.arange(tokens.shape[1]).unsqueeze(0), torch.tensor([0]))["logits"]
            assert int(scores.argmax()) == token
            tokens = torch.cat([tokens, torch.tensor([[token]])], 1)
        want = reference(input_ids=tokens).logits[0, -6:]
    torch.testing.assert_close(step.scores_of(tuple(tokens[0].tolist()), 6), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "config", "values"),
    [
        ("BloomForCausalLM", "BloomConfig", {}),
        ("MambaForCausalLM", "MambaConfig", {"state_size": 4}),
        ("GPTJForCausalLM", "GPTJConfig", {"rotary_dim": 4}),
    ],
)
def test_attention_that_is_not_transformers_is_refused(architecture: str, config: str, values: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        tiny(architecture, config, **values)
    said = str(caught.value)
    assert "AttentionInterface" in said
    assert architecture in said
    assert "edgecompile" not in said
    assert "\n" not in said


@pytest.mark.parametrize("attending", [[1], [0, 1]])
def test_layers_with_another_state_are_refused(attending: list[int]) -> None:
    with pytest.raises(UserError, match="Lfm2ForCausalLM: tokens reach those behind them by more than attention"):
        check_state(tiny("Lfm2ForCausalLM", "Lfm2Config", full_attn_idxs=attending).step)


@pytest.mark.parametrize(
    ("architecture", "config", "values"),
    [("Lfm2ForCausalLM", "Lfm2Config", {"full_attn_idxs": [0, 1, 2]}),
     ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4, "initializer_range": 0.3}),
     *((name, config, values) for name, (config, values, _) in CASES.items())],
)  # fmt: skip
def test_attention_alone_is_fine(architecture: str, config: str, values: dict[str, Any]) -> None:
    check_state(tiny(architecture, config, **values).step)


def test_a_rotary_embedding_of_short_texts_is_kept_where_no_text_is_longer() -> None:
    step, reference = tiny("Phi3ForCausalLM", "Phi3Config", **longrope(CONTEXT))
    check_state(step)
    ids = torch.randint(0, VOCABULARY, (1, CONTEXT))
    with torch.no_grad():
        got = step(ids, torch.arange(CONTEXT).unsqueeze(0), torch.tensor([0]))["logits"]
        want = reference(input_ids=ids).logits[:, -1]
        plain = tiny("Phi3ForCausalLM", "Phi3Config", initializer_range=0.3).reference(input_ids=ids).logits[:, -1]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert float((want - plain).abs().max()) > 0.01, "its own factors count"


def test_a_rotary_embedding_that_changes_within_the_context_is_refused() -> None:
    with pytest.raises(
        UserError, match=rf"invalid value {CONTEXT} for generation.context: .* \(longrope\) .* at most 16$"
    ):
        tiny("Phi3ForCausalLM", "Phi3Config", **longrope(16))


def test_a_model_that_numbers_the_tokens_of_a_message_is_refused() -> None:
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "init_std": 0.3,
             "is_decoder": True, "is_encoder_decoder": False}  # fmt: skip
    step = tiny("BartForCausalLM", "BartConfig", **sizes).step
    with pytest.raises(UserError, match=r"^BartForCausalLM: a text that comes in parts.*it numbers tokens in a"):
        check_state(step)


def test_positions_are_those_that_generate_gives() -> None:
    """RoBERTa's begin at 2 where it is given none."""
    step, _ = tiny("RobertaForCausalLM", "RobertaConfig", is_decoder=True, initializer_range=0.3)
    check_state(step)
    prompt = torch.randint(2, VOCABULARY, (1, 7))
    (token,) = step.generated(prompt, 1)
    assert int(step.scores_of(tuple(prompt[0].tolist()), 1).argmax()) == token


def test_layers_that_share_keys_and_values_see_all_tokens() -> None:
    """Gemma 4 leaves out of its last layers what generate() does not ask for."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    step, reference = tiny(
        "Gemma4ForCausalLM", "Gemma4TextConfig", sliding_window=WINDOW, head_dim=8, global_head_dim=8,
        num_hidden_layers=4, layer_types=kinds, num_kv_shared_layers=2, hidden_size_per_layer_input=4,
        vocab_size_per_layer_input=VOCABULARY, initializer_range=0.3,
    )  # fmt: skip
    check_state(step)
    ids = torch.randint(0, VOCABULARY, (1, LONG))
    with torch.no_grad():
        got = step(ids, torch.arange(LONG).unsqueeze(0), torch.tensor([0]))["logits"]
        want = reference(input_ids=ids).logits[:, -1]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_attention_that_sees_what_comes_later_is_refused() -> None:
    config, values, _ = CASES["Gemma3ForCausalLM"]
    with pytest.raises(UserError, match="is not causal"):
        tiny("Gemma3ForCausalLM", config, **values, use_bidirectional_attention=True)


def test_a_mask_that_is_no_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import masking_utils
    from transformers.models.llama import modeling_llama

    def same_chunk(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return query // 8 == key // 8

    chunked = partial(masking_utils.create_causal_mask, and_mask_function=same_chunk)
    monkeypatch.setattr(modeling_llama, "create_causal_mask", chunked)
    with pytest.raises(UserError, match="attention 0 of the model sees neither all tokens before nor"):
        tiny("LlamaForCausalLM", "LlamaConfig")


def test_a_window_of_the_context_or_more_is_none() -> None:
    step, _ = tiny("MistralForCausalLM", "MistralConfig", sliding_window=CONTEXT)
    assert step.windows == [0, 0, 0]


def test_a_context_is_no_longer_than_the_model_takes() -> None:
    tiny("LlamaForCausalLM", "LlamaConfig", context=64)
    with pytest.raises(UserError, match=r"invalid value 65 for generation\.context: the model takes at most 64 tokens"):
        tiny("LlamaForCausalLM", "LlamaConfig", context=65)
