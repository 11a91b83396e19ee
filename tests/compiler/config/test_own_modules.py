"""A user's module is found where the command is started, and nothing else that lies there is imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from compiler_helpers import Command

from edgecompile.models.user_modules import find_named_modules, why_not_found

INPUTS = "model.inputs={x: {shape: [4], dtype: float32}}"
MODULE = "import torch\n\n\nclass Net(torch.nn.Sequential):\n    def __init__(self, width=4):\n"
MODULE += "        super().__init__(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a command is started: not on the path, as for an installed script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    return tmp_path


def test_a_module_beside_the_command_compiles(
    folder: Path, main_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "own_net_beside.py").write_text(MODULE)
    (folder / "torch.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.delitem(sys.modules, "own_net_beside", raising=False)
    done = main_here(
        "model=custom", "model.build._target_=own_net_beside.Net", "+model.build.width=4", INPUTS, "--quiet"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "outputs" / "plan.yaml").is_file()
    assert sys.path[-1] == str(folder)


@pytest.mark.parametrize(
    "build",
    [
        {"_target_": "torch.nn.Linear"},
        {"_target_": "edgecompile.models.from_transformers", "architecture": "ViTModel"},
        {"_target_": "own_net_missing.Net"},
        {"_target_": "torch.nn.Linear", "note": "own_net.Net"},
        {},
    ],
)
def test_the_folder_is_on_the_path_for_what_is_named_and_there_alone(folder: Path, build: dict[str, object]) -> None:
    for name in ("torch.py", "own_net.py", "ViTModel.py"):
        (folder / name).write_text("raise SystemExit('imported')\n")
    find_named_modules(build)
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    "build",
    [
        {"_target_": "own_net.Net"},
        {"_target_": "own_package.nets.Net"},
        {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "own_net.Net"}]},
        {"_target_": "edgecompile.models.from_transformers", "architecture": "own_net.Net"},
        {"_target_": "hydra.utils.get_method", "path": "own_net.make"},
    ],
)
def test_wherever_the_config_names_it(folder: Path, build: dict[str, object]) -> None:
    (folder / "own_net.py").write_text("")
    (folder / "own_package").mkdir()
    find_named_modules(build)
    assert sys.path[-1] == str(folder)
    assert sys.path.count(str(folder)) == 1


def test_why_a_target_is_not_found(folder: Path) -> None:
    assert f"no module own_net is installed, or in this folder, {folder}" in why_not_found("own_net.Net")
    (folder / "json.py").write_text("")
    importlib.import_module("json")
    assert "which takes precedence over the one in this folder: give yours another name" in why_not_found("json.Net")
    (folder / "own_net.py").write_text("")
    assert why_not_found("own_net.Nett") == ""
