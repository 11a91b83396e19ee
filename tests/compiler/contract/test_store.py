"""Files are whole or not there, whatever stops the writing."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgecompile.artifacts.data_files import data_spec
from edgecompile.config.data_request import data_of
from edgecompile.config.model_spec import InputSpec, ModelSpec
from edgecompile.config.schema import DataConf
from edgecompile.contract.files import atomic_files as module
from edgecompile.contract.files.atomic_files import file_sha256, replacing, store

TOKENIZER = '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'


def half(path: Path) -> None:
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def no_room(source: Path, destination: Path) -> None:
    raise OSError(28, "No space left on device", str(destination))


def test_the_name_is_the_hash_of_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for content in (b"one", b"one", b"another"):
        path, digest = store(folder, ".bin", lambda temporary, content=content: temporary.write_bytes(content))
        assert path == folder / f"{hashlib.sha256(content).hexdigest()}.bin"
        assert path.read_bytes() == content
        assert file_sha256(path) == digest
    assert len(list(folder.iterdir())) == 2


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, ".bin", half)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("of an earlier run")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        half(temporary)
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "of an earlier run")]
    with replacing(path) as temporary:
        temporary.write_text("of this run")
        assert path.read_text() == "of an earlier run"
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "of this run")]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_are_the_umask_s_whatever_the_writer_does(tmp_path: Path, umask: int, mode: int) -> None:
    def private(path: Path) -> None:  # as safetensors writes from 0.8 on
        other = path.with_suffix(".other")
        other.write_bytes(b"x")
        other.chmod(0o600)
        other.replace(path)

    before = os.umask(umask)
    try:
        files = [store(tmp_path, ".a", private)[0], tmp_path / "b"]
        files.append(store(tmp_path, ".safetensors", lambda path: save_file({"x": torch.zeros(1)}, path))[0])
        with replacing(files[1]) as temporary:
            private(temporary)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [mode] * 3


def test_nobody_can_guess_where_a_file_is_written_and_put_a_link_there(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with replacing(tmp_path / "plan.yaml") as temporary:
            names.add(temporary.name)
            temporary.write_text("whole")
    assert len(names) == 3
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("plan.yaml", "whole")]


def test_a_tokenizer_that_finds_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text(TOKENIZER)
    conf = DataConf(kind="text", ids="ids", tokenizer=str(tmp_path / "tokenizer.json"))
    ids = InputSpec(name="ids", shape=(5,), dtype="int64", fill=None, high=None)
    spec = ModelSpec(name="m", build={}, inputs=(ids,), outputs=())
    request = data_of(conf, spec)
    text = data_spec(request, ("y",), None, tmp_path / "good").text
    assert text is not None
    assert text.tokenizer == f"tokenizer/{text.sha256}.json"
    assert (tmp_path / "good" / text.tokenizer).read_text() == TOKENIZER
    monkeypatch.setattr(module.os, "replace", no_room)
    with pytest.raises(OSError, match="No space left"):
        data_spec(request, ("y",), None, tmp_path / "full")
    assert list((tmp_path / "full" / "tokenizer").iterdir()) == []
