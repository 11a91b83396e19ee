"""Every kind of input, read in this process."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launch_plans import Written
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import DataSpec, ImageSpec, Plan, TensorSpec, TextSpec
from edgelaunch.common.items import Item
from edgelaunch.inputs.fitting import fit
from edgelaunch.inputs.images import prepare
from edgelaunch.inputs.open_input import open_source

IMAGE = ImageSpec(size=(24, 32), resize=36, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
LABELS = ("tench, Tinca tinca", "goldfish", "great white shark")


def items_of(plan: Plan, path: Path, limit: int | None = None) -> list[Item]:
    source = open_source(plan, path.parent, path, limit)
    items = [item for item in source.items if isinstance(item, Item)]
    assert source.num_items == len(items)
    return items


# --- arrays -------------------------------------------------------------------------------------------------------


@pytest.fixture
def floats(two_stages: Written) -> Plan:
    return two_stages.plan


@pytest.fixture
def ids(three_stages: Written) -> Plan:
    return three_stages.plan


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_npy_of_any_float(floats: Plan, tmp_path: Path, dtype: str) -> None:
    x = np.arange(12).reshape(3, 4).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    items = items_of(floats, tmp_path / "x.npy")
    assert [item.entry.index for item in items] == [0, 1, 2]
    np.testing.assert_array_equal(np.stack([item.arrays["x"] for item in items]), x)
    assert items[0].arrays["x"].dtype == np.float32
    assert len(items_of(floats, tmp_path / "x.npy", limit=2)) == 2


def test_npz_with_labels(ids: Plan, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ids=np.ones((2, 6), np.int8), mask=np.ones((2, 6), bool), label=np.array([3, 1]))
    items = items_of(ids, tmp_path / "x.npz")
    assert [item.entry.label for item in items] == [3, 1]
    assert items[0].arrays["ids"].dtype == items[0].arrays["mask"].dtype == np.int64


def test_safetensors(ids: Plan, tmp_path: Path) -> None:
    arrays = {"ids": np.ones((2, 6), np.int32), "mask": np.zeros((2, 6), np.int64)}
    save_file(arrays, tmp_path / "x.safetensors")
    assert len(items_of(ids, tmp_path / "x.safetensors")) == 2


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5), np.float32), r"x is float32 \(3, 5\), the model takes float32 \(items, 4\)"),
        (np.zeros((3, 4), np.uint8), r"x is uint8 .* convert it first"),
        (np.zeros((0, 4), np.float32), "holds no items"),
        (np.array(1.0), r"x is float64 \(\)"),
        (np.array([object()]), "cannot be read as .npy"),
    ],
)
def test_npy_that_does_not_fit(floats: Plan, tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        items_of(floats, tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": np.zeros((2, 6), int)}, "holds the arrays ids, the model takes ids, mask"),
        ({"ids": np.zeros((2, 6), int), "mask": np.zeros((3, 6), int)}, "differ in their number of items"),
        ({"ids": np.full((2, 6), 2**63, np.uint64), "mask": np.zeros((2, 6), int)}, "item 0: ids holds 92233"),
        ({"ids": np.zeros((2, 6)), "mask": np.zeros((2, 6), int)}, "ids is float64"),
    ],
)
def test_npz_that_does_not_fit(ids: Plan, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        items_of(ids, tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_damaged_arrays(floats: Plan, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"\x93NUMPY\x01\x00garbage")
    with pytest.raises(UserError, match=f"x{suffix}: cannot be read as"):
        items_of(floats, path)


def test_other_inputs(floats: Plan, ids: Plan, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(UserError, match=r"x.csv: unknown kind of input"):
        items_of(floats, tmp_path / "x.csv")
    (tmp_path / "x.txt").write_text("one")
    with pytest.raises(UserError, match="tiny takes tensor input"):
        items_of(floats, tmp_path / "x.txt")
    with pytest.raises(UserError, match="tiny takes tensor input"):
        items_of(floats, tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((1, 6), int))
    with pytest.raises(UserError, match=r"the model takes ids, mask: give a .npz"):
        items_of(ids, tmp_path / "x.npy")


def test_fit_of_truth_values() -> None:
    spec = TensorSpec(name="mask", shape=(1, 3), dtype="bool")
    assert fit(np.array([0, 1, 1]), spec, "here").dtype == bool
    with pytest.raises(UserError, match="here: mask holds 2, the model takes bool"):
        fit(np.array([0, 1, 2]), spec, "here")


def test_fit_of_floats_that_are_too_large_and_of_what_is_no_array() -> None:
    """No infinity where the item has a number; its own infinities and NaN stay."""
    spec = TensorSpec(name="x", dtype="float32", shape=(1, 3))
    there = np.array([np.inf, np.nan, 3e38])
    np.testing.assert_array_equal(fit(there, spec, "here"), there.astype(np.float32))
    with pytest.raises(UserError, match=r"here: x holds -1e\+39, the model takes float32 \(3,\): at most 3.40282e\+38"):
        fit(np.array([0.0, -1e39, np.inf]), spec, "here")
    half = TensorSpec(name="x", dtype="float16", shape=(1, 1))
    with pytest.raises(UserError, match="x holds 70000, the model takes float16"):
        fit(np.array([70000], np.float32), half, "here")
    for value in ([1.0, [2.0], 3.0], torch.ones(3, dtype=torch.bfloat16), torch.ones(3, requires_grad=True)):
        with pytest.raises(UserError, match=r"here: x is not an array \(.*\), the model takes float32 \(3,\)"):
            fit(value, spec, "here")


# --- images -------------------------------------------------------------------------------------------------------


@pytest.fixture
def vision(two_stages: Written) -> Plan:
    data = DataSpec(kind="image", image=IMAGE, result="labels", scores="y", labels=LABELS)
    inputs = (TensorSpec(name="pixels", shape=(2, 3, 24, 32), dtype="float32"),)
    outputs = (TensorSpec(name="y", shape=(2, len(LABELS)), dtype="float32"),)
    return replace(two_stages.plan, data=data, inputs=inputs, outputs=outputs)


def picture(path: Path, size: tuple[int, int] = (80, 50), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.mark.parametrize("size", [(80, 50), (50, 80), (33, 200), (36, 36)])
def test_an_image_is_resized_cropped_and_normalised(tmp_path: Path, size: tuple[int, int]) -> None:
    file = picture(tmp_path / "a.png", size)
    image = Image.open(file)
    width, height = (36 * extent // min(size) for extent in size)
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 32) // 2, (height - 24) // 2
    cropped = np.asarray(whole.crop((left, top, left + 32, top + 24)), np.float32) / 255
    expected = ((cropped - np.float32(IMAGE.mean)) / np.float32(IMAGE.std)).transpose(2, 0, 1)
    given = prepare(file, IMAGE)
    assert (given.shape, given.dtype) == ((3, 24, 32), np.float32)
    np.testing.assert_allclose(given, expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_of_other_modes(vision: Plan, tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    (item,) = items_of(vision, picture(tmp_path / f"a.{suffix}", mode=mode))
    assert item.arrays["pixels"].shape == (3, 24, 32)
    assert item.entry.name == f"a.{suffix}"


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["Tinca_tinca", "goldfish"], [0, 1]),
        (["Great-White  shark", "GOLDFISH", "tench, tinca TINCA"], [1, 2, 0]),
        (["2", "0"], [0, 2]),
        (["zebra", "apple", "pear"], [0, 1, 2]),
    ],
)
def test_folders_are_classes(vision: Plan, tmp_path: Path, folders: list[str], labels: list[int]) -> None:
    for folder in folders:
        picture(tmp_path / folder / "deep" / "b.jpg")
    source = open_source(vision, tmp_path, tmp_path, None)
    items = [item for item in source.items if isinstance(item, Item)]
    assert source.labelled
    assert [item.entry.label for item in items] == labels
    assert [item.entry.name for item in items] == sorted(str(item.entry.name) for item in items)


def test_unreadable_images_are_named(vision: Plan, tmp_path: Path) -> None:
    good = picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(good.read_bytes()[:-500])
    (tmp_path / "c.jpg").write_text("no image")
    for name in ("b.png", "c.jpg"):
        with pytest.raises(UserError, match=f"{name}: not a readable image"):
            items_of(vision, tmp_path / name)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no images"):
        items_of(vision, empty)


@pytest.mark.slow
def test_an_image_of_too_many_pixels_is_refused(vision: Plan, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (9_000, 9_000)).save(tmp_path / "large.png")
        Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
        Image.new("1", (1, 100_000)).save(tmp_path / "line.png")
    with pytest.raises(UserError, match=r"large.png: 9000 x 9000 pixels are too many"):
        items_of(vision, tmp_path / "large.png")
    with pytest.raises(UserError, match=r"bomb.png: not a readable image: .*400000000 pixels"):
        items_of(vision, tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"line.png: an aspect ratio of 1 to 100000"):
        items_of(vision, tmp_path / "line.png")


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def language(two_stages: Written, tmp_path: Path) -> Plan:
    words = ["[PAD]", "[UNK]", "the", "cat", "sat", "on", "mat"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = TextSpec(
        tokenizer="tokenizer.json", sha256=file_sha256(tmp_path / "tokenizer.json"), max_length=5, ids="ids",
        mask="mask", types="types",
    )  # fmt: skip
    inputs = tuple(TensorSpec(name=name, shape=(2, 5), dtype="int64") for name in ("ids", "mask", "types"))
    return replace(two_stages.plan, data=DataSpec(kind="text", text=text), inputs=inputs)


def test_sentences_are_tokenised_padded_and_truncated(language: Plan, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("the cat\nthe cat sat on the mat\n", encoding="utf-8")
    first, second = items_of(language, tmp_path / "x.txt")
    assert first.entry.name == "the cat"
    assert {name: array.tolist() for name, array in first.arrays.items()} == {
        "ids": [2, 3, 0, 0, 0], "mask": [1, 1, 0, 0, 0], "types": [0, 0, 0, 0, 0],
    }  # fmt: skip
    assert second.arrays["ids"].tolist() == [2, 3, 4, 5, 2]


def test_jsonl(language: Plan, tmp_path: Path) -> None:
    records = ["the cat", {"text": "sat", "label": 2}, {"sentence": "on", "label": 0}]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    items = items_of(language, tmp_path / "x.jsonl")
    assert [(item.entry.name, item.entry.label) for item in items] == [("the cat", None), ("sat", 2), ("on", 0)]


def test_cola(language: Plan, tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text('gj04\t1\t\tthe "cat sat\ngj04\t0\t*\tcat the\n')
    items = items_of(language, tmp_path / "dev.tsv")
    assert [(item.entry.name, item.entry.label) for item in items] == [('the "cat sat', 1), ("cat the", 0)]
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tthe cat\n")
    assert [item.entry.name for item in items_of(language, tmp_path / "test.tsv")] == ["the cat"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"good\n\xff\xfe", r"x.txt:2: byte 0 is not UTF-8 text"),
        ("x.txt", b"", "holds no items"),
        ("x.txt", b"\xef\xbb\xbf", "holds no items"),
        ("x.jsonl", b"\n\n", "holds no items"),
        ("x.txt", "cat".encode("utf-16-le"), "x.txt:1: holds a zero byte, as UTF-16 does"),
        ("x.tsv", b"a\t--1\t\tcat\n", r"x.tsv:1: 4 columns are not GLUE CoLA"),
        ("x.tsv", b"a\t" + b"9" * 5000 + b"\t\tcat\n", r"x.tsv:1: 4 columns are not GLUE CoLA"),
        ("x.tsv", b"a\t1\t\tcat\nindex\tsentence\n", r"x.tsv:2: 2 columns are not GLUE CoLA"),
        ("x.txt", b"a" * (1 << 20) + b"bc", "x.txt:1: a line of more than"),
        ("x.jsonl", b'"a"\n{"txet": 1}', r"x.jsonl:2: must be a string, or an object"),
        ("x.jsonl", b"{", "x.jsonl:1: not JSON"),
        ("x.jsonl", b'{"text": "a", "label": "b"}', "label is 'b', expected a class number"),
        ("x.tsv", b"a\tb\tc\n", r"x.tsv:1: 3 columns are not GLUE CoLA"),
    ],
)
def test_text_that_cannot_be_read(language: Plan, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        items_of(language, tmp_path / name)


def test_tokenizer_missing_or_damaged(language: Plan, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("the cat")
    spec = language.data.text
    assert spec is not None
    bare = replace(language, data=replace(language.data, text=replace(spec, tokenizer=None)))
    with pytest.raises(UserError, match="the plan has no tokenizer"):
        items_of(bare, tmp_path / "x.txt")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.json: the tokenizer is damaged or belongs to another plan"):
        items_of(language, tmp_path / "x.txt")
    spec = replace(spec, sha256=file_sha256(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer.json: not a readable tokenizer"):
        items_of(replace(language, data=replace(language.data, text=spec)), tmp_path / "x.txt")


def test_text_for_a_model_with_other_inputs(language: Plan, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("the cat")
    extra = TensorSpec(name="positions", shape=(2, 5), dtype="int64")
    with pytest.raises(UserError, match="text gives no positions"):
        items_of(replace(language, inputs=(*language.inputs, extra)), tmp_path / "x.txt")
