"""Files of the user's: what is read of them, and what is not written over."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edgecompile.artifacts.data_files import check_labels
from edgecompile.commands import pipeedge_command as pipeedge_cli
from edgecompile.config.data_request import data_of
from edgecompile.config.model_spec import InputSpec, ModelSpec
from edgecompile.config.schema import DataConf
from edgecompile.contract.errors import UserError
from edgecompile.contract.files import user_files as files
from edgecompile.contract.files.user_files import printable, read_text
from edgecompile.contract.plan import DataSpec
from edgecompile.contract.plan_file import check_place
from edgecompile.frontend.chain.units import Boundary, BoundaryTensor
from edgecompile.measure.partial import PartialFile
from edgecompile.profile.profile_file import check_profile_place
from edgecompile.sweep import callback as sweep

MINE = "version: 1\nservices: {}\n"


def labels_of(labels: object) -> tuple[str, ...]:
    item = InputSpec(name="x", shape=(1,), dtype="float32", fill=None, high=None)
    return data_of(DataConf(labels=labels), ModelSpec(name="m", build={}, inputs=(item,), outputs=())).labels


@pytest.mark.parametrize(
    "content", ["cat\ndog\n", "\ufeffcat\r\ndog\r\n\r\n", "cat\rdog", "\ufeff cat \n dog\n\n"], ids=range(4)
)
def test_labels_of_a_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content.encode())
    assert labels_of(str(tmp_path / "labels.txt")) == ("cat", "dog")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"cat\n\ndog\n", "labels.txt: entry 2 is empty"),
        (b"", "labels.txt: entry 1 is empty"),
        ("cat\ndog\n".encode("utf-16"), "labels.txt: not a labels file: byte 0 is not UTF-8 text"),
        ([False, True], r"data.labels.0: False is not text: put it in quotes"),
        (["cat", None], r"data.labels.1: None is not text"),
        (["cat", " "], None),
    ],
)
def test_labels_that_would_shift_classes(tmp_path: Path, given: object, message: str | None) -> None:
    if isinstance(given, bytes):
        (tmp_path / "labels.txt").write_bytes(given)
        given = str(tmp_path / "labels.txt")
    if message is None:
        assert labels_of(given) == ("cat", " ")
        return
    with pytest.raises(UserError, match=message):
        labels_of(given)


def test_there_is_a_label_for_each_class() -> None:
    tensor = BoundaryTensor(node=None, name="y", shape=(2, 3), dtype="float32", num_bytes=24)  # type: ignore[arg-type]
    results = Boundary(index=1, tensors=(tensor,), cuttable=False)
    data = DataSpec(kind="tensor", result="labels", scores="y", labels=("a", "b", "c"))
    check_labels(data, results)
    for names in (("a", "b"), ("background", "a", "b", "c")):
        with pytest.raises(UserError, match=rf"names {len(names)} classes, and y has 3 scores: give a label for each"):
            check_labels(replace(data, labels=names), results)


def test_names_that_nothing_can_print() -> None:
    assert printable("café\U0001f600") == "café\U0001f600"
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert printable("half \ud83d") == r"half \ud83d"


def test_a_pipe_is_read_and_a_wait_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SAY_AFTER_S", 0.0)
    path = tmp_path / "plan.yaml"
    os.mkfifo(path)
    told, texts = threading.Event(), list[str]()

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())
            told.set()

    def write() -> None:
        told.wait(30)  # whatever happens the reader is let go
        path.write_bytes(b"\xef\xbb\xbfa: 1\r\n")

    recorder, logger = Recorder(), logging.getLogger("edgecompile")
    logger.addHandler(recorder)
    try:
        writer = threading.Thread(target=write)
        writer.start()
        assert read_text(path, what="plan", max_bytes=100) == "a: 1\n"
        writer.join()
    finally:
        logger.removeHandler(recorder)
    assert texts == [f"{path} is a pipe: waiting until all of it has been written"]


def test_what_never_ends_is_not_read_to_its_end() -> None:
    with pytest.raises(UserError, match=r"/dev/zero: too large for a plan \(at most 1000 bytes\)"):
        read_text(Path("/dev/zero"), what="plan", max_bytes=1000)


# --- what is not written over -------------------------------------------------------------------------------------


def test_a_file_of_somebody_else_s_is_not_taken_for_ours(tmp_path: Path) -> None:
    for name, check in (("plan.yaml", check_place), ("profile.yaml", check_profile_place),
                        ("profile.yaml.partial", lambda path: PartialFile(path, {}))):  # fmt: skip
        path = tmp_path / name
        check(path)
        path.write_text("")
        check(path)
        path.write_text(MINE)
        with pytest.raises(UserError, match=f"{name}: is not a .*, and would be overwritten: move it away, or choose"):
            check(path)
        assert path.read_text() == MINE
    (tmp_path / "plan.yaml").unlink()
    (tmp_path / "plan.yaml").mkdir()
    with pytest.raises(UserError, match=r"plan.yaml: plan would be written here: Is a directory"):
        check_place(tmp_path / "plan.yaml")


def test_a_plan_is_not_written_where_torch_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"caf\\xe9: the plan's folder has a name that is not UTF-8"):
        check_place(tmp_path / os.fsdecode(b"caf\xe9") / "plan.yaml")


@pytest.mark.parametrize("name", ["manifest.json", "sweep.svg", "0/plan.yaml", "0/result.json"])
def test_a_sweep_leaves_files_of_others_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "0").mkdir()
    sweep._check_files(tmp_path, tmp_path / "0")
    (tmp_path / name).write_text('{"jobs": 1, "name": "my web app"}' if name == "sweep.svg" else '{"name": "mine"}')
    with pytest.raises(UserError, match=rf"{name}: is not a .*, and would be overwritten"):
        sweep._check_files(tmp_path, tmp_path / "0")


def test_edgesched_writes_over_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "devices").mkdir()
    paths = {name: tmp_path / "devices" / f"{name}.yaml" for name in ("models", "types", "hosts")}
    paths["models"].write_text("tiny: {layers: 2, mem_MB: [1.0, 1.0], parameters_in: 100, parameters_out: [10, 1]}\n")
    paths["types"].write_text(
        "fast: {bw_Mbps: 1000, mem_MB: 64, model_profiles: {tiny: [{batch_size: 8, dtype: torch.float32, "
        "time_s: [1.0, 1.0]}]}}\n"
    )
    paths["hosts"].write_text("fast: [f-0]\n")
    before = {path: path.read_bytes() for path in paths.values()}
    words = ["-m", "tiny", "-M", paths["models"], "-T", paths["types"], "-D", paths["hosts"], "--flops", "1e9"]
    for name, message in (("hosts", "--to-conf would overwrite the devices file"), ("mine", "is not a config that")):
        (tmp_path / "devices" / "mine.yaml").write_text("mine: 1\n")
        given = [*map(str, words), "--to-conf", str(tmp_path), "--conf-name", name]
        assert pipeedge_cli.main(given) == 2
        assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in paths.values()} == before
    for _ in range(2):
        assert pipeedge_cli.main([*map(str, words), "--to-conf", str(tmp_path)]) == 0
