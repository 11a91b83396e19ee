"""Import arrows point one way, and what must stay light stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LOW = {
    "edgecompile.arguments",
    "edgecompile.errors",
    "edgecompile.quantities",
    "edgecompile.decode",
    "edgecompile.files",
    "edgecompile.libraries",
    "edgecompile.plan",
    "edgecompile.plan_cluster",
    "edgecompile.plan_costs",
    "edgecompile.plan_files",
    "edgecompile.plan_rules",
    "edgecompile.prepack",
    "edgecompile.process",
    "edgecompile.run_record",
    "edgecompile.store",
    "edgecompile.streams",
    "edgecompile.torchscript",
}
SHARED = ("arguments", "closeness", "libraries", "plan", "prepack", "process", "run_record", "streams", "torchscript")
HIGH = {"edgecompile.cli", "edgecompile.commands", "edgecompile.pipeline", "edgecompile.sweep"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            inside = ROOT.joinpath(*node.module.split("."))
            found.update(
                f"{node.module}.{alias.name}" for alias in node.names if inside.joinpath(f"{alias.name}.py").exists()
            )
    return found


def test_launch_imports_the_plan_and_nothing_else_of_the_compiler() -> None:
    for path in (ROOT / "launch").rglob("*.py"):
        ours = {name for name in imports(path) if name.split(".")[0] == "edgecompile"}
        assert ours <= {"edgecompile", *(f"edgecompile.{name}" for name in SHARED)}, path


def test_the_compiler_never_imports_the_launcher() -> None:
    for path in (ROOT / "edgecompile").rglob("*.py"):
        assert not any(name.split(".")[0] in ("edgelaunch", "launch") for name in imports(path)), path


def test_steps_do_not_reach_back() -> None:
    for path in (ROOT / "edgecompile").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        ours = {name for name in imports(path) if name.startswith("edgecompile.")}
        if module in LOW:
            assert ours <= LOW, module
        if module not in HIGH:
            assert not ours & HIGH, module


def test_torch_jit_is_called_in_one_place() -> None:
    """It warns, and there the warning is left out."""
    for path in sorted((*(ROOT / "edgecompile").rglob("*.py"), *(ROOT / "launch").rglob("*.py"))):
        calls = re.findall(r"\bjit\.(?:trace|freeze|save|load|script)\(", path.read_text(encoding="utf-8"))
        assert not calls or path.name == "torchscript.py", path


def test_texts_say_their_encoding() -> None:
    """Otherwise the locale decides how a file is read."""
    silent = re.compile(r"\.read_text\(\)|\.read_text\(errors|text=True(?!, encoding)")
    for path in sorted((*(ROOT / "edgecompile").rglob("*.py"), *(ROOT / "launch").rglob("*.py"))):
        found = silent.findall(path.read_text(encoding="utf-8"))
        assert not found, (path, found)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("edgecompile.cli", {"torch", "transformers", "numpy"}),
        ("edgecompile.commands", {"torch", "transformers", "numpy", "hydra"}),
        ("edgecompile.profile_cli", {"torch", "transformers", "numpy"}),
        ("edgecompile.explore.cli", {"torch", "hydra", "transformers"}),
        ("edgecompile.plan", {"torch", "hydra", "numpy"}),
        ("edgelaunch.cli", {"torch", "hydra", "transformers"}),
    ],
)
def test_light_imports(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(' '.join(set(sys.modules) & {heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", ["edgecompile", "edgelaunch", "edgeplan", "edgeprofile", "edgesched"])
def test_installed_scripts_tell_their_version_from_anywhere(name: str, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name(name)
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(name)
