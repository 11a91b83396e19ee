"""Folders of images, and lines of text: which items they hold, and what their labels are."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from launch_harness import PROGRAM, run
from launch_plans import Written, save
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import DataSpec, ImageSpec, Plan, TensorSpec, TextSpec
from edgecompile.contract.plan_file import read_run_plan
from edgelaunch.common.items import STDIN, Item
from edgelaunch.inputs.bad_items import BadItems
from edgelaunch.inputs.open_input import open_source
from edgelaunch.outputs.partial_results import origin_of
from edgelaunch.request.run_request import RunRequest

IMAGE = ImageSpec(size=(24, 32), resize=36, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
LABELS = ("tench, Tinca tinca", "goldfish", "crane", "crane")


def read(plan: Plan, path: Path, *, gap: bool = False, folder: Path | None = None) -> tuple[list[Item], BadItems]:
    bad = BadItems(plan, gap=gap)
    source = open_source(plan, folder or path.parent, path, None, bad)
    return [item for item in source.items if isinstance(item, Item)], bad


def labels(plan: Plan, path: Path) -> dict[str | None, int | None]:
    return {item.entry.name: item.entry.label for item in read(plan, path)[0]}


@pytest.fixture
def vision(two_stages: Written) -> Plan:
    """Of four classes."""
    data = DataSpec(kind="image", image=IMAGE, result="labels", scores="y", labels=LABELS)
    inputs = (TensorSpec(name="pixels", shape=(2, 3, 24, 32), dtype="float32"),)
    return replace(two_stages.plan, data=data, inputs=inputs)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name in ("Tinca_tinca/a.png", "goldfish/b.png"):
        picture(folder / name)
    return folder


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (9, 9, 9)).save(path)


# --- folders ------------------------------------------------------------------------------------------------------


def test_links_to_class_folders_and_files_are_followed(vision: Plan, tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png")
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "goldfish").symlink_to(tmp_path / "elsewhere")
    (folder / "tench").mkdir()
    (folder / "tench" / "b.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    assert labels(vision, folder) == {"goldfish/a.png": 1, "tench/b.png": 0}
    request = RunRequest(plan_path=Path(__file__), input=folder)
    origin = origin_of(vision, request)
    picture(tmp_path / "elsewhere" / "c.png")
    assert origin_of(vision, request) != origin


def test_links_that_go_round_or_nowhere_are_refused(vision: Plan, pictures: Path) -> None:
    loop = pictures / "goldfish" / "again"
    loop.symlink_to(pictures)
    with pytest.raises(UserError, match=r"goldfish/again: links back to a folder that contains it: remove this link"):
        read(vision, pictures)
    loop.unlink()
    loop.symlink_to("missing")
    with pytest.raises(UserError, match=r"again: links to missing, which does not exist: fix or remove the link"):
        read(vision, pictures)
    loop.unlink()
    (pictures / "goldfish" / "c.png").symlink_to("c.png")
    items, bad = read(vision, pictures, gap=True)
    assert [item.entry.name for item in items if item.entry.error] == ["goldfish/c.png"]
    assert (len(items), bad.num_items) == (3, 1)
    os.mkfifo(pictures / "goldfish" / "d.png")
    items, bad = read(vision, pictures, gap=True)
    assert "d.png: is a pipe, and an image is a file" in str(items[3].entry.error)


def test_hidden_files_are_no_items_and_are_told(
    vision: Plan, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "goldfish" / "._b.png").write_bytes(b"\0\5\x16\7")
    picture(pictures / ".ipynb_checkpoints" / "b-checkpoint.png")
    picture(pictures / "goldfish" / ".ipynb_checkpoints" / "b-checkpoint.png")
    assert labels(vision, pictures) == {"Tinca_tinca/a.png": 0, "goldfish/b.png": 1}
    assert "skipped 3 hidden files or folders" in capsys.readouterr().err
    hidden = pictures.rename(pictures.with_name(".pictures"))  # what the user names is meant
    assert len(labels(vision, hidden)) == 2


def test_files_of_other_kinds_are_told(vision: Plan, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A camera's .heic is an image to its user: accuracies and row numbers would be wrong without a word."""
    for name in ("goldfish/c.heic", "goldfish/d.HEIC", "Tinca_tinca/readme"):
        (pictures / name).write_bytes(b"x")
    (pictures / "goldfish" / "b.png").rename(pictures / "goldfish" / "b.jfif")
    assert labels(vision, pictures) == {"Tinca_tinca/a.png": 0, "goldfish/b.jfif": 1}
    assert "skipped 3 files of other kinds (.heic, no suffix): convert those that are" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_named(vision: Plan, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refused(path: Path) -> object:
        if path.name == "goldfish":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match="goldfish: this folder cannot be read: Permission denied"):
        read(vision, pictures)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["goldfish", "goldfihs"],
            r"1 of 2 class folders are named by labels of the plan, and goldfihs not: name each",
        ),
        (["1", "4"], r"1 of 2 class folders are named by class numbers of the plan, and 4 not: .*classes 0 to 3"),
        (["goldfish", "0"], r"1 of 2 class folders are named by labels of the plan, and 0 not"),
        (["crane", "goldfish"], r"crane is a label of the classes 2, 3: name all folders by class number"),
    ],
)
def test_classes_that_fit_in_part_are_refused(vision: Plan, tmp_path: Path, folders: list[str], message: str) -> None:
    for folder in folders:
        picture(tmp_path / "in" / folder / "a.png")
    with pytest.raises(UserError, match=message):
        read(vision, tmp_path / "in")


@pytest.mark.parametrize(
    ("folders", "given", "told"),
    [
        (["d", "c", "b", "a"], [0, 1, 2, 3], "class folders are numbered in alphabetical order"),
        (["2024-01-02", "2024-01-03"], [None, None], "the 2 subfolders are not used as classes"),
        (["17", "18"], [None, None], "the 2 subfolders are not used as classes"),
    ],
)
def test_folders_that_no_label_names(
    vision: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str], folders: list[str], given: list[int | None],
    told: str,
) -> None:  # fmt: skip
    for folder in folders:
        picture(tmp_path / "in" / folder / "a.png")
    assert list(labels(vision, tmp_path / "in").values()) == given
    assert told in capsys.readouterr().err


# --- text ---------------------------------------------------------------------------------------------------------


def with_tokenizer(plan: Plan, folder: Path) -> Plan:
    """Takes sentences of five words; gives one of four classes."""
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "cat": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    text = TextSpec(tokenizer="tokenizer.json", sha256=file_sha256(folder / "tokenizer.json"), max_length=4, ids="x")
    return replace(plan, data=DataSpec(kind="text", text=text, result="labels", scores="y"))


@pytest.fixture
def language(two_stages: Written, tmp_path: Path) -> Plan:
    return with_tokenizer(two_stages.plan, tmp_path)


CONTENTS = ["cat\n\ncat cat\n", "\ufeffcat\r\n\r\n cat cat \r\n", "cat\n\n\ufeffcat cat"]


@pytest.mark.parametrize("content", CONTENTS)
def test_every_line_of_a_txt_is_an_item(
    language: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "x.txt").write_bytes(content.encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    for items, _ in (read(language, tmp_path / "x.txt"), read(language, Path(STDIN), folder=tmp_path)):
        assert [item.entry.name for item in items] == ["cat", "", "cat cat"]
        assert [item.entry.index for item in items] == [0, 1, 2]
        assert [item.arrays["x"].tolist() for item in items] == [[2, 0, 0, 0], [0] * 4, [2, 2, 0, 0]]


def test_empty_lines_of_other_files_are_counted(
    language: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf"cat"\r\n\r\n \r\n{"text": "cat", "label": 3}\r\n')
    items, bad = read(language, tmp_path / "x.jsonl")
    assert [(item.entry.name, item.entry.label) for item in items] == [("cat", None), ("cat", 3)]
    assert bad.num_empty_lines == 2
    assert "x.jsonl: skipped 2 empty lines, which have no result" in capsys.readouterr().err
    (tmp_path / "x.tsv").write_bytes(b"\xef\xbb\xbfindex\tsentence\r\n0\tcat\r\n\r\n1\tcat cat\r\n")
    items, bad = read(language, tmp_path / "x.tsv")
    assert ([item.entry.name for item in items], bad.num_empty_lines) == (["cat", "cat cat"], 1)


@pytest.mark.parametrize(("label", "given"), [("0", 0), ("3", 3), ("-1", None), ("4", "error"), ("-2", "error")])
def test_labels_are_classes_of_the_model(language: Plan, tmp_path: Path, label: str, given: object) -> None:
    """-1 stands for a label that is kept secret, as in GLUE's test files."""
    (tmp_path / "x.tsv").write_text(f"a\t{label}\t\tcat\n")
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "cat", "label": int(label)}))
    for name in ("x.tsv", "x.jsonl"):
        if given == "error":
            with pytest.raises(UserError, match=f"{name}:1: label is {label}, expected a class number, 0 to 3"):
                read(language, tmp_path / name)
        else:
            assert [item.entry.label for item in read(language, tmp_path / name)[0]] == [given]
    arrays = replace(language, data=replace(language.data, kind="tensor", text=None))
    np.savez(tmp_path / "x.npz", x=np.ones((2, 4), np.float32), label=np.array([0, int(label)]))
    if given == "error":
        with pytest.raises(UserError, match=rf"x.npz, item 1: label is {label}, expected a class number, 0 to 3"):
            read(arrays, tmp_path / "x.npz")
    else:
        assert [item.entry.label for item in read(arrays, tmp_path / "x.npz")[0]] == [0, given]


def test_half_a_surrogate_pair_is_a_bad_item(language: Plan, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "cat"}\n{"text": "\\ud83d cat"}\n')
    with pytest.raises(UserError, match="half"):
        read(language, tmp_path / "x.jsonl")
    items, bad = read(language, tmp_path / "x.jsonl", gap=True)
    assert [item.entry.error is None for item in items] == [True, False]
    assert bad.num_items == 1


# --- through the command ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_file_names_that_are_no_utf8(one_stage: Written, tmp_path: Path) -> None:
    """The plan's own, the input's and the output's do; that of the plan's folder is refused, since torch cannot."""
    plan = tmp_path / os.fsdecode(b"pl\xe4n.yaml")
    for name in ("shards", "golden.safetensors"):
        (tmp_path / name).symlink_to(one_stage.path.parent / name)
    save(Written(plan, one_stage.plan, [], 2))
    source, output = (tmp_path / os.fsdecode(name) for name in (b"x\xff.npy", b"y\xfe.npy"))
    np.save(source, np.ones((3, 4), np.float32))
    words = [*PROGRAM, plan, "--local", "--input", source, "--output", output]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"3 results in " in done.stdout
    np.testing.assert_array_equal(np.load(output), np.full((3, 4), 2.0))
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    plan.rename(folder / "plan.yaml")
    with pytest.raises(UserError, match=r"caf\\xe9: the plan's folder has a name that is not UTF-8, .*: rename it"):
        read_run_plan(folder / "plan.yaml")


def test_names_and_errors_that_are_no_utf8_are_written(vision: Plan, pictures: Path, tmp_path: Path) -> None:
    import torch

    from edgelaunch.outputs.result_files import open_writer

    name = os.fsdecode(b"caf\xe9.png")
    (pictures / "goldfish" / name).write_bytes(b"no image")
    items, _ = read(vision, pictures, gap=True)
    writer = open_writer(vision, tmp_path / "y.jsonl")
    for item in items:
        writer.add(item.entry, {"y": torch.zeros(4)})
    writer.finish()
    records = [json.loads(line) for line in (tmp_path / "y.jsonl").read_bytes().splitlines()]
    assert [record["name"] for record in records] == ["Tinca_tinca/a.png", "goldfish/b.png", r"goldfish/caf\xe9.png"]
    assert r"goldfish/caf\xe9.png: not a readable image" in records[2]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan.yaml", "x.txt", "x.npy"])
def test_pipes_and_devices_are_no_plan_and_no_input(one_stage: Written, tmp_path: Path, name: str) -> None:
    """None of them is opened: that would wait for ever."""
    words = [] if name == "plan.yaml" else [one_stage.path, "--local", "--input"]
    os.mkfifo(tmp_path / name)
    run(*words, tmp_path / name).expect_error(f"{tmp_path / name}: is a pipe, and ")
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / name).symlink_to("/dev/zero")
    run(*words, tmp_path / "device" / name).expect_error(f"device/{name}: is a device, and ")
