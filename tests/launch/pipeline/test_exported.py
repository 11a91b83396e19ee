"""A pt2 shard that a newer torch wrote: what a rank and the doctor say of it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import launch_plans
import pytest
import torch

from edgecompile.contract.errors import UserError
from edgelaunch.doctor.findings import FAILS, OK
from edgelaunch.doctor.rank_checks import examine
from edgelaunch.pipeline.pt2 import exported_by, is_newer
from edgelaunch.pipeline.stage_shard import load_shard


def unreadable(path: object, extra_files: object = None) -> None:
    """torch.export.load of torch 2.6, with what 2.7 and later write."""
    raise KeyError("There is no item named 'version' in the archive")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> launch_plans.Written:
    written = launch_plans.floats(tmp_path_factory.mktemp("exported"), num_stages=1)
    launch_plans.export_stage(written, 0, launch_plans.Scale(2.0))
    return written


@pytest.mark.slow
def test_a_shard_of_a_newer_torch(exported: launch_plans.Written, monkeypatch: pytest.MonkeyPatch) -> None:
    written_by = torch.__version__
    folder, stage = exported.path.parent, exported.plan.stages[0]
    assert exported_by(folder / stage.shard) == str(written_by)
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.6.0+cu124"))
    found = {item.check: item.verdict for item in examine(exported.plan, folder, (0,), None)}
    assert found["pt2"] == OK, "newer, and it can be loaded all the same"
    monkeypatch.setattr(torch.export, "load", unreadable)
    says = (
        rf"torch 2\.6\.0\+cu124 cannot load this pt2 shard, which torch {re.escape(written_by)} wrote "
        rf"\(KeyError: .*version.*\): install torch {re.escape(written_by.partition('+')[0])} or later on this rank, "
        "or compile with artifact=torchscript"
    )
    with pytest.raises(UserError, match=says):
        load_shard(stage, folder, "cpu")
    (item,) = [item for item in examine(exported.plan, folder, (0,), None) if item.check == "pt2"]
    assert item.verdict == FAILS
    assert "artifact=torchscript" in item.fix


def test_a_shard_of_an_older_torch(exported: launch_plans.Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.export, "load", unreadable)
    with pytest.raises(UserError, match="compile again with this rank's torch, or with artifact=torchscript"):
        load_shard(exported.plan.stages[0], exported.path.parent, "cpu")


def test_who_wrote_an_archive(tmp_path: Path) -> None:
    for name, text, version in (
        ("serialized_exported_program.json", '{"torch_version": "2.6.0"}', "2.6.0"),  # as torch 2.6 has it
        ("x/models/model.json", '{"torch_version": 3}', None),
        ("x/models/model.json", "[]", None),
        ("x/models/model.json", "{", None),
        ("other", "", None),
    ):
        with zipfile.ZipFile(tmp_path / "shard", "w") as archive:
            archive.writestr(name, text)
        assert exported_by(tmp_path / "shard") == version, text
    (tmp_path / "shard").write_bytes(b"no archive")
    assert exported_by(tmp_path / "shard") is None
    assert exported_by(tmp_path / "nothing") is None


def test_newer_is_by_release() -> None:
    assert is_newer("2.13.0+cpu", "2.6.0+cu124")
    assert not is_newer("2.13.0+cu130", "2.13.0+cpu")
    assert not is_newer("2.6.0", "2.13.0")
