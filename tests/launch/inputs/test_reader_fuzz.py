"""Damaged and hostile files, over every reader of the launcher and of plans: each works, or ends in a UserError."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import HOSTILE, mutations, num_refused
from launch_harness import run
from launch_plans import Written
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import DataSpec, ImageSpec, Plan, TensorSpec, TextSpec
from edgecompile.contract.plan_file import read_plan
from edgelaunch.common.items import STDIN
from edgelaunch.common.secret import find_secret
from edgelaunch.common.software import Software
from edgelaunch.inputs.bad_items import BadItems
from edgelaunch.inputs.open_input import open_source
from edgelaunch.outputs.golden import GoldenFile
from edgelaunch.outputs.partial_results import MARK, Origin
from edgelaunch.outputs.result_files import open_writer
from edgelaunch.pipeline.stage_shard import load_shard
from edgelaunch.store.joining import Signed

NUM_MUTATIONS = 130


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def text_plan(plan: Plan, folder: Path) -> Plan:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "cat": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    sha256 = file_sha256(folder / "tokenizer.json")
    text = TextSpec(tokenizer="tokenizer.json", sha256=sha256, max_length=5, ids="ids")
    inputs = (TensorSpec(name="ids", shape=(2, 5), dtype="int64"),)
    return replace(plan, data=DataSpec(kind="text", text=text), inputs=inputs)


def image_plan(plan: Plan) -> Plan:
    image = ImageSpec(size=(24, 32), resize=36, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    inputs = (TensorSpec(name="pixels", shape=(2, 3, 24, 32), dtype="float32"),)
    return replace(plan, data=DataSpec(kind="image", image=image), inputs=inputs)


def drawn(plan: Plan, folder: Path, path: Path, *, gap: bool = False) -> None:
    source = open_source(plan, folder, path, None, BadItems(plan, gap=gap, quiet=True))
    for _ in source.items:
        pass


def npy_bytes(array: Any) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


def npz_bytes(**arrays: Any) -> bytes:
    memory = io.BytesIO()
    np.savez(memory, **arrays)
    return memory.getvalue()


def image_bytes(kind: str) -> bytes:
    memory = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(memory, kind)
    return memory.getvalue()


Reader = tuple[bytes, str, Callable[[Path], object]]


def readers(written: Written, folder: Path) -> dict[str, Reader]:
    """By name: valid bytes, a file name, and what reads the file."""
    return {
        **array_readers(written, folder),
        **image_readers(written, folder),
        **text_readers(written, folder),
        **plan_readers(written),
        **other_readers(written),
    }


def array_readers(written: Written, folder: Path) -> dict[str, Reader]:
    rows = np.zeros((3, 4), np.float32)
    save_file({"x": rows}, folder / "seed.safetensors")

    def read(path: Path) -> None:
        drawn(written.plan, written.path.parent, path)

    def standard_input(path: Path) -> None:
        before = sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
        try:
            read(Path(STDIN))
        finally:
            sys.stdin = before

    return {
        "npy": (npy_bytes(rows), "x.npy", read),
        "npz": (npz_bytes(x=rows, label=np.arange(3)), "x.npz", read),
        "safetensors": ((folder / "seed.safetensors").read_bytes(), "x.safetensors", read),
        "standard input": (b'[1,2,3,4]\n{"x": [1,2,3,4], "label": 2}\n', "x", standard_input),
    }


def image_readers(written: Written, folder: Path) -> dict[str, Reader]:
    vision = image_plan(written.plan)
    endings = {"png": "png", "jpeg": "jpg", "gif": "gif", "tiff": "tif", "webp": "webp"}
    return {
        name: (image_bytes(name.upper()), f"x.{ending}", lambda path: drawn(vision, folder, path))
        for name, ending in endings.items()
    }


def text_readers(written: Written, folder: Path) -> dict[str, Reader]:
    language = text_plan(written.plan, folder)
    jsonl = b'"cat"\n{"text": "cat", "label": 1}\n{"sentence": "cat"}\n'

    def read(path: Path) -> None:
        drawn(language, folder, path)

    def read_tokenizer(path: Path) -> None:
        assert language.data.text is not None
        spec = replace(language.data.text, tokenizer=path.name, sha256=file_sha256(path))
        (path.parent / "one.txt").write_text("cat\n")
        damaged = replace(language, data=replace(language.data, text=spec))
        drawn(damaged, path.parent, path.parent / "one.txt")

    return {
        "txt": (b"cat\ncat cat\n", "x.txt", read),
        "jsonl": (jsonl, "x.jsonl", read),
        "jsonl with gaps": (jsonl, "x.jsonl", lambda path: drawn(language, folder, path, gap=True)),
        "tsv": (b"gj04\t1\t\tcat\ngj04\t0\t*\tcat\n", "x.tsv", read),
        "tokenizer": ((folder / "tokenizer.json").read_bytes(), "t.json", read_tokenizer),
    }


def plan_readers(written: Written) -> dict[str, Reader]:
    plan, where = written.plan, written.path.parent

    def read_golden(path: Path) -> None:
        damaged = replace(plan, golden=replace(plan.golden, file=path.name, sha256=file_sha256(path)))
        file = GoldenFile(damaged, path.parent)
        for _ in file.items():
            pass

    def read_shard(path: Path) -> None:
        load_shard(replace(plan.stages[0], shard=path.name), path.parent, "cpu")

    return {
        "plan": (written.path.read_bytes(), "plan.yaml", read_plan),
        "golden": ((where / plan.golden.file).read_bytes(), "g.safetensors", read_golden),
        "shard": ((where / plan.stages[0].shard).read_bytes(), "s.pt", read_shard),
    }


def other_readers(written: Written) -> dict[str, Reader]:
    """Of what an earlier run left, and of secrets."""
    plan = written.plan

    def resume(path: Path) -> None:
        output = path.parent / "y.jsonl"
        partial = path.parent / "y.jsonl.partial"
        partial.mkdir(exist_ok=True)
        (partial / "rows.jsonl").write_bytes(path.read_bytes())
        (partial / "run.json").write_text(json.dumps({"what": MARK, "version": 1, "plan": "p", "input": {"a": 1}}))
        open_writer(plan, output, Origin("p", {"a": 1}), resume=True).discard()

    def resume_record(path: Path) -> None:
        partial = path.parent / "z.jsonl.partial"
        partial.mkdir(exist_ok=True)
        (partial / "run.json").write_bytes(path.read_bytes())
        open_writer(plan, path.parent / "z.jsonl", Origin("p", {"a": 1}), resume=True).discard(keep=False)

    def secret(path: Path) -> None:
        path.chmod(0o600)
        find_secret(plan, "192.0.2.1", str(path), {})

    def request(path: Path) -> None:
        signed = Signed.read(path.read_bytes().decode(errors="replace"))
        if signed is not None and not signed.proves(b"s" * 16, "join"):
            Software.read(signed.values())

    return {
        "partial rows": (b'{"index": 0}\n{"index": 1}\n{"ind', "r", resume),
        "partial record": (
            json.dumps({"what": MARK, "version": 1, "plan": "p", "input": {"a": 1}}).encode(),
            "r",
            resume_record,
        ),
        "secret": (b"0123456789abcdef0123\n", "k", secret),
        "request to join": (
            Signed.of(b"s" * 16, "join", json.dumps(Software.own().values())).text().encode(),
            "c",
            request,
        ),
    }


NAMES = (
    "plan", "npy", "npz", "safetensors", "png", "jpeg", "gif", "tiff", "webp", "txt", "jsonl", "jsonl with gaps", "tsv",
    "standard input", "golden", "tokenizer", "shard", "partial rows", "partial record", "secret",
    "request to join",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_end_in_one_kind_of_error(two_stages: Written, folder: Path, tmp_path: Path, name: str) -> None:
    seed, file_name, read = readers(two_stages, folder)[name]
    path = tmp_path / file_name
    path.write_bytes(seed)
    read(path)
    refused = num_refused(seed, 40 if name == "shard" else NUM_MUTATIONS, path, read)
    assert refused or name in ("partial rows", "partial record", "request to join", "jsonl with gaps")
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith("pwned")]


def test_archives_that_reach_outside_write_nothing(two_stages: Written, tmp_path: Path) -> None:
    path = tmp_path / "in" / "x.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../pwned.npy", npy_bytes(np.zeros((1, 4), np.float32)))
        archive.writestr("x.npy", npy_bytes(np.zeros((1, 4), np.float32)))
    with pytest.raises(UserError):
        drawn(two_stages.plan, tmp_path, path)
    assert not list(tmp_path.rglob("pwned*"))


def test_a_pickled_array_is_not_unpickled(two_stages: Written, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read as"):
        drawn(two_stages.plan, tmp_path, tmp_path / "x.npy")


@pytest.mark.parametrize("number", range(8))
def test_the_command_says_one_line(copied: Written, tmp_path: Path, number: int) -> None:
    text = copied.path.read_bytes()
    damaged = list(mutations(text, len(HOSTILE) + 40))[len(HOSTILE) + number :: 8]
    for data in damaged:
        copied.path.write_bytes(data)
        try:
            read_plan(copied.path)
        except UserError:
            run(copied.path, "--local", "--items", "1", "--quiet").expect_error()
            return
    pytest.fail("no mutation was refused")
