"""Items that cannot be read: the run stops, or each leaves a marked gap and shifts no other."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from launch_harness import PROGRAM, run
from launch_plans import Written
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import DataSpec, ImageSpec, Plan, TensorSpec, TextSpec
from edgelaunch.common.items import STDIN, Entry, Item
from edgelaunch.inputs.bad_items import BadItems
from edgelaunch.inputs.open_input import open_source
from edgelaunch.inputs.text import Encoder
from edgelaunch.outputs.result_files import open_writer

IMAGE = ImageSpec(size=(24, 32), resize=36, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))


def items_of(plan: Plan, path: Path, *, gap: bool = True) -> list[Item]:
    bad = BadItems(plan, gap=gap, quiet=True)
    source = open_source(plan, path.parent, path, None, bad)
    items = [item for item in source.items if isinstance(item, Item)]
    assert source.num_items in (None, len(items))
    assert [item.entry.index for item in items] == list(range(len(items)))
    assert bad.num_items == sum(item.entry.error is not None for item in items)
    return items


def bad_ones(items: list[Item]) -> dict[int, str]:
    return {item.entry.index: item.entry.error for item in items if item.entry.error is not None}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (40 + number, 40), (number, 0, 0)).save(folder / f"{number}.png")
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "2.png").write_text("no image")
    return folder


@pytest.fixture
def vision(two_stages: Written) -> Plan:
    inputs = (TensorSpec(name="pixels", shape=(2, 3, 24, 32), dtype="float32"),)
    return replace(two_stages.plan, data=DataSpec(kind="image", image=IMAGE), inputs=inputs)


def test_images(vision: Plan, pictures: Path) -> None:
    items = items_of(vision, pictures)
    assert len(items) == 4
    assert set(bad_ones(items)) == {1, 2}
    assert "1.png: not a readable image" in bad_ones(items)[1]
    assert items[2].entry.name == "2.png"
    assert not items[2].arrays["pixels"].any()
    assert items[3].arrays["pixels"].any()
    with pytest.raises(UserError, match=r"1.png: not a readable image"):
        items_of(vision, pictures, gap=False)


@pytest.fixture
def language(two_stages: Written, tmp_path: Path) -> Plan:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "cat": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    sha256 = file_sha256(tmp_path / "tokenizer.json")
    text = TextSpec(tokenizer="tokenizer.json", sha256=sha256, max_length=5, ids="ids")
    inputs = (TensorSpec(name="ids", shape=(2, 5), dtype="int64"),)
    return replace(two_stages.plan, data=DataSpec(kind="text", text=text), inputs=inputs)


def test_lines_of_text(language: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelaunch.inputs.text.MAX_LINE_BYTES", 30)
    lines = [b'"cat"', b"{not json", b"", b'{"label": 1}', b"\xff\xfe", b'"' + b"x" * 200 + b'"', b'{"text": "cat"}']
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    items = items_of(language, tmp_path / "x.jsonl")
    assert len(items) == 6
    assert set(bad_ones(items)) == {1, 2, 3, 4}
    assert "x.jsonl:2: not JSON" in bad_ones(items)[1]
    assert "x.jsonl:6: a line of more than 30 bytes" in bad_ones(items)[4]
    assert items[5].entry.name == "cat"
    assert items[5].arrays["ids"].tolist() == [2, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r"x.jsonl:2: not JSON"):
        items_of(language, tmp_path / "x.jsonl", gap=False)


@pytest.mark.parametrize(
    "line", [r'"cat \ud83d"', r'{"text": "\ude00 cat", "label": 1}', r'{"sentence": "\ude00\ud83d"}']
)
def test_half_an_emoji_is_a_bad_item(language: Plan, tmp_path: Path, line: str) -> None:
    """JSON can write it and UTF-8 cannot; a whole one is a text like any other."""
    path = tmp_path / "x.jsonl"
    path.write_text('"cat"\n' + line + '\n"cat \\ud83d\\ude00"\n')
    items = items_of(language, path)
    assert [item.entry.name for item in items] == ["cat", None, "cat \U0001f600"]
    assert "x.jsonl:2: " in bad_ones(items)[1]
    assert "half a character" in bad_ones(items)[1]
    with pytest.raises(UserError, match=r"x.jsonl:2: .* is half a character"):
        items_of(language, path, gap=False)


def test_half_an_emoji_given_by_a_program(language: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stream: .* is half a character"):
        Encoder(language, tmp_path, "stream").encode("cat \ud83d")


def test_lines_of_standard_input(two_stages: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelaunch.inputs.stdin.MAX_LINE_BYTES", 30)
    lines = [b"[1, 2, 3, 4]", b"[1, 2]", b"", b"[" + b"1," * 100, b"\xff", b'{"y": 1}', b"[5, 6, 7, 8]"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(lines))))
    items = items_of(two_stages.plan, Path(STDIN))
    assert set(bad_ones(items)) == {1, 2, 3, 4}
    assert [item.arrays["x"].tolist() for item in items if item.entry.error is None] == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".jsonl"])
def test_gaps_in_an_output(two_stages: Written, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"y{suffix}"
    writer = open_writer(two_stages.plan, path)
    for index in range(3):
        entry = Entry(index=index, error="no image" if index == 1 else None)
        writer.add(entry, {"y": torch.full((4,), float(index))})
    writer.finish()
    if suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert records[1] == {"index": 1, "error": "no image"}
        rows = np.array([records[0]["outputs"]["y"], [np.nan] * 4, records[2]["outputs"]["y"]])
    else:
        rows = np.load(path) if suffix == ".npy" else np.load(path)["y"]
    np.testing.assert_array_equal(rows, [[0] * 4, [np.nan] * 4, [2] * 4])


def test_gaps_of_other_dtypes(three_stages: Written, tmp_path: Path) -> None:
    plan = three_stages.plan
    writer = open_writer(plan, tmp_path / "y.npz")
    outputs = {spec.name: torch.ones(spec.shape[1:], dtype=getattr(torch, spec.dtype)) for spec in plan.outputs}
    for index in range(2):
        writer.add(Entry(index=index, error="bad" if index == 0 else None), outputs)
    writer.finish()
    for name, array in np.load(tmp_path / "y.npz").items():
        assert len(array) == 2, name
        assert array[1].all(), name
        assert np.isnan(array[0]).all() if array.dtype.kind == "f" else not array[0].any(), name


def launched(written: Written, lines: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, str(written.path), "--local", "--input", "-", *map(str, arguments)]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=False)


LINES = "[1,1,1,1]\n[broken\n[3,3,3,3]\n[4]\n[5,5,5,5]\n"


@pytest.mark.slow
def test_the_command_goes_on_and_counts(two_stages: Written, tmp_path: Path) -> None:
    output = tmp_path / "y.jsonl"
    done = launched(two_stages, LINES, "--output", output, "--on-bad-item", "gap", "--verify")
    assert done.returncode == 0, done.stderr
    assert "2 items could not be read and left a gap each" in done.stdout
    assert "item 1: left out: standard input:2: not JSON" in done.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["index"] for record in records] == [0, 1, 2, 3, 4]
    assert ["error" in record for record in records] == [False, True, False, True, False]
    assert records[4]["outputs"]["y"] == [20.0] * 4


@pytest.mark.slow
def test_the_command_stops_by_default(two_stages: Written, tmp_path: Path) -> None:
    done = launched(two_stages, LINES, "--output", tmp_path / "y.jsonl")
    assert done.returncode == 2
    assert "standard input:2: not JSON" in done.stderr
    assert not list(tmp_path.iterdir())
    run(two_stages.path, "--local", "--on-bad-item", "shift").expect_error("--on-bad-item")
