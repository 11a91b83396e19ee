"""A language model from where transformers keeps it; what is none is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_language import VOCABULARY, tiny

from edgecompile.contract.errors import UserError
from edgecompile.models.causal_step import CausalStep
from edgecompile.models.gguf_files import gguf_config, gguf_tensors, gguf_tokenizer, is_gguf
from edgecompile.models.language import causal_lm
from edgecompile.models.weights import load_weights

LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 64}  # fmt: skip


def test_a_class_and_a_config_make_a_model() -> None:
    step = causal_lm(architecture="LlamaForCausalLM", config=LLAMA, context=16)
    assert isinstance(step, CausalStep)
    assert step.context == 16
    assert step.model.config.num_hidden_layers == 2


def test_a_saved_model_says_what_it_is(tmp_path: Path) -> None:
    _, reference = tiny("Qwen2ForCausalLM", "Qwen2Config")
    reference.save_pretrained(tmp_path)
    step = causal_lm(path=str(tmp_path), context=16)
    assert type(step.model).__name__ == "Qwen2ForCausalLM"
    assert {name: value.shape for name, value in step.model.state_dict().items()} == {
        name: value.shape for name, value in reference.state_dict().items()
    }


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "config.json"),
        ("{}", "config.json"),
        (json.dumps({"model_type": "no_such_model"}), "config.json"),
        (json.dumps({"model_type": "vit"}), "ViTConfig is of no causal language model"),
        (None, "no config.json there"),
    ],
)
def test_folders_that_hold_no_language_model(tmp_path: Path, config: str | None, said: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError) as caught:
        causal_lm(path=str(tmp_path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_path_there_is_no_model() -> None:
    with pytest.raises(UserError, match=r"model\.build\.path is missing"):
        causal_lm()


def test_files_that_are_no_gguf(tmp_path: Path) -> None:
    assert not is_gguf(tmp_path / "none.gguf")
    path = tmp_path / "x.GGUF"
    for content in (b"", b"GGUF", b"GGUF" + b"\xff" * 60, b"nonsense" * 20):
        path.write_bytes(content)
        assert is_gguf(path)
        for read in (gguf_config, gguf_tensors, gguf_tokenizer):
            with pytest.raises(UserError, match=r"x\.GGUF: ") as caught:
                read(path)
            assert "\n" not in str(caught.value)


def write_gguf(path: Path, model: Any, without: str = "") -> None:
    """A Llama as llama.cpp's own converter writes it: rotary halves interleaved. `without`: a tensor's name."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    words = ["<s>", "</s>", "<unk>", "a", "b", "ab"]
    writer.add_token_list([*words, *(f"w{number}" for number in range(len(words), config.vocab_size))])
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, 3, 2] + [1] * (config.vocab_size - 3))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages[0].content }}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        parts = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        heads = next((count for part, count in parts.items() if part in name), None)
        if heads is None:
            written = value
        else:
            written = value.reshape(heads, 2, -1, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        if name != without:
            writer.add_tensor(names.get_name(name, (".weight",)), written.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_has_config_weights_and_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    _, reference = tiny("LlamaForCausalLM", "LlamaConfig", pad_token_id=None, tie_word_embeddings=False)
    path = tmp_path / "tiny.gguf"
    write_gguf(path, reference)
    step = causal_lm(path=str(path), context=16)
    assert isinstance(step, CausalStep)
    step.model.load_state_dict(gguf_tensors(path))
    ids = torch.randint(0, VOCABULARY, (1, 9))
    with torch.no_grad():
        got = step(ids, torch.arange(9).unsqueeze(0), torch.tensor([0]))["logits"]
        want = reference(input_ids=ids).logits[:, -1]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    text, settings = gguf_tokenizer(path)
    assert json.loads(text)["model"]["vocab"]["ab"] == 5
    assert settings["chat_template"] == "{{ messages[0].content }}"
    assert "</s>" in str(settings["eos_token"])


def test_a_gguf_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    _, reference = tiny("LlamaForCausalLM", "LlamaConfig", pad_token_id=None, tie_word_embeddings=False)
    name = "model.layers.1.mlp.up_proj.weight"
    write_gguf(tmp_path / "tiny.gguf", reference, without=name)
    with pytest.raises(UserError, match=f"lacks {name}"):
        load_weights(causal_lm(path=str(tmp_path / "tiny.gguf"), context=16), str(tmp_path / "tiny.gguf"))
