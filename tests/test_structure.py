"""Import arrows point one way, and what must stay light stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import circles, imported_names, module_graph, room_graph

ROOT = Path(__file__).parent.parent

TREES = {"edgecompile": ROOT / "edgecompile", "edgelaunch": ROOT / "launch"}
ROOMS: dict[str, dict[str, str]] = {
    "edgecompile": {
        "contract": "",
        "terminal": "contract",
        "execution.fusion": "",
        "execution": "contract execution.fusion",
        "config": "contract execution",
        "planning": "contract",
        "sweep": "contract terminal",
        "drawing": "contract",
        "explore.timeline": "contract planning",
        "explore": "contract terminal planning sweep drawing explore.timeline",
        "frontend.capture": "contract execution config",
        "frontend.passes": "contract frontend.capture",
        "frontend.golden": "contract execution config frontend.capture",
        "frontend.chain": "contract config planning frontend.capture frontend.passes frontend.golden",
        "models": "contract execution config frontend.capture frontend.golden",
        "wire": "contract config frontend.capture frontend.golden frontend.chain",
        "profile": "contract execution config planning frontend.chain wire",
        "partition": "contract config planning frontend.chain wire profile",
        "artifacts": "contract execution config planning frontend.capture frontend.passes frontend.golden "
        "frontend.chain models wire profile partition",
        "precision": "contract execution config planning frontend.capture frontend.golden frontend.chain partition "
        "profile artifacts",
        "generation": "contract execution config planning frontend.capture frontend.chain models profile partition "
        "artifacts precision",
        "measure.machine_costs": "contract execution config frontend.chain wire profile artifacts",
        "measure": "contract terminal execution config frontend.capture frontend.golden frontend.chain models wire "
        "profile artifacts measure.machine_costs",
        "measure.quick": "contract execution config frontend.capture frontend.chain profile measure "
        "measure.machine_costs",
        "pipeline": "contract terminal execution config planning frontend.capture frontend.golden frontend.chain "
        "models wire profile partition artifacts precision generation measure.quick",
        "commands": "contract terminal execution config planning profile explore sweep measure pipeline",
        "api": "contract config planning explore pipeline models commands",
        "__init__": "contract planning api",
    },
    "edgelaunch": {
        "process": "",
        "common": "process",
        "request": "common",
        "store": "process common",
        "transport": "process common store",
        "pipeline": "process common store transport",
        "inputs": "process common pipeline",
        "outputs": "process common request inputs",
        "generation": "process common request inputs transport pipeline",
        "control.core": "common",
        "control": "process common store transport pipeline control.core",
        "local": "process common request",
        "emulation": "process common request local",
        "report": "process common control outputs",
        "link_test": "common transport pipeline",
        "doctor": "process common store transport pipeline link_test",
        "boards": "process common request local link_test",
        "boards.agent": "process common request local boards",
        "watching": "process common store control.core control",
        "composition": "process common request pipeline control link_test watching",
        "application": "process common request inputs outputs pipeline generation control.core control local "
        "composition",
        "api": "common request generation application",
        "serve.http": "common control report application",
        "serve.routes": "common inputs generation application serve.http",
        "serve.live": "control serve.http",
        "serve": "process common request report control application serve.http serve.routes serve.live",
        "commands": "process common request inputs outputs generation pipeline report control local emulation "
        "link_test doctor boards boards.agent watching composition serve serve.http",
        "entry": "process commands",
        "__init__": "common api",
        "__main__": "entry",
    },
}
"""Each package and which others it may import; nothing imports a room that is below it here."""
OPEN_TO_RANKS = ("contract", "execution", "terminal", "drawing")
"""What the launcher imports of the compiler."""
MOST_MODULES, MOST_LINES, MOST_FUNCTION_LINES = 15, 400, 60


@pytest.mark.slow
@pytest.mark.parametrize("package", sorted(TREES))
def test_imports_go_one_way(package: str) -> None:
    graph = module_graph(TREES[package], package)
    assert circles(graph) == []
    rooms = ROOMS[package]
    allowed = {room: set(others.split()) for room, others in rooms.items()}
    for room, others in room_graph(graph, set(rooms)).items():
        assert others <= allowed.get(room, set()), f"{room} imports {sorted(others - allowed.get(room, set()))}"
    order = list(rooms)
    for room, others in allowed.items():
        assert all(order.index(other) < order.index(room) for other in others), f"{room} stands above what it imports"
    assert circles(allowed) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


@pytest.mark.parametrize("package", sorted(TREES))
def test_folders_files_and_functions_stay_small(package: str) -> None:
    for folder in {path.parent for path in TREES[package].rglob("*.py")}:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, folder
    for path in TREES[package].rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= MOST_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < MOST_FUNCTION_LINES, (path, node.name)


NATIVE_ROOMS = {"problem": set(), "search": {"problem"}, "simulation": {"problem"}}
"""Folders of native_sched/src, and which others each may include."""


def test_native_sources_include_one_way() -> None:
    source = ROOT / "native_sched" / "src"
    assert {path.name for path in source.iterdir()} == set(NATIVE_ROOMS)
    for path in source.rglob("*.[ch]pp"):
        included = set(re.findall(r'^#include "(\w+)/', path.read_text(), re.MULTILINE)) - {"native_sched"}
        assert included - {path.parent.name} <= NATIVE_ROOMS[path.parent.name], path


def test_tests_mirror_the_rooms() -> None:
    for tests, package in (("compiler", "edgecompile"), ("launch", "edgelaunch")):
        for folder in {path.parent for path in (ROOT / "tests" / tests).rglob("test_*.py")}:
            assert (TREES[package] / folder.relative_to(ROOT / "tests" / tests)).is_dir(), folder
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert len(names) == len(set(names)), "pytest imports two files of one name as one module"


def test_each_module_has_a_name_of_its_own() -> None:
    names = [path.name for tree in TREES.values() for path in tree.rglob("*.py") if path.name != "__init__.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_each_module_says_what_it_is_for() -> None:
    for tree in TREES.values():
        for path in tree.rglob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


@pytest.mark.slow
def test_ranks_need_little_of_the_compiler_and_the_compiler_nothing_of_them() -> None:
    for path in TREES["edgelaunch"].rglob("*.py"):
        ours = {name for name in imported_names(path) if name.split(".")[0] == "edgecompile"} - {"edgecompile"}
        assert {name.split(".")[1] for name in ours} <= {*OPEN_TO_RANKS, "__version__"}, path
    for path in TREES["edgecompile"].rglob("*.py"):
        assert not any(name.split(".")[0] in ("edgelaunch", "launch") for name in imported_names(path)), path


@pytest.mark.slow
def test_no_class_overrides_a_private_method() -> None:
    """What varies is handed in: a base class may then change what it keeps to itself."""
    for tree in TREES.values():
        found = [
            node
            for path in tree.rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ClassDef)
        ]
        private = {node.name: _private_methods(node) for node in found}
        bases = {node.name: [base.id for base in node.bases if isinstance(base, ast.Name)] for node in found}
        for name, own in private.items():
            above = [base for base in bases[name] if base in private]
            for base in above:
                overridden = own & private[base]
                assert not overridden, f"{name} overrides {overridden} of {base}"
                above += [other for other in bases[base] if other in private]


def _private_methods(node: ast.ClassDef) -> set[str]:
    names = {item.name for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))}
    return {name for name in names if name.startswith("_") and not name.endswith("__")}


def test_a_rank_is_put_together_in_one_place() -> None:
    """Its options, its secret, its threads and its Supervisor: the command, Pipeline and the link test alike."""
    for path in sorted(TREES["edgelaunch"].rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        calls = re.findall(r"(?<!class )\b(?:RankOptions|Supervisor|LinkSupervisor|RankStart)\(", text)
        assert not calls or path.name == "composition.py", (path, calls)
        assert "argparse.Namespace" not in text or path.name == "option_fields.py", path


def test_the_composed_config_is_seen_where_the_request_is_made() -> None:
    """It is mutable and unparsed: every step of the compiler takes its part of the CompileRequest."""
    tree = TREES["edgecompile"]
    for path in tree.rglob("*.py"):
        composed = any(name.startswith("edgecompile.config.schema") for name in imported_names(path))
        assert not composed or path.relative_to(tree).parts[0] in ("config", "commands"), path


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
        ("edgecompile.commands.compile_command", {"torch", "transformers", "numpy"}),
        ("edgecompile.commands.entry_points", {"torch", "transformers", "numpy", "hydra"}),
        ("edgecompile.commands.profile_command", {"torch", "transformers", "numpy"}),
        ("edgecompile.commands.plan_command", {"torch", "hydra", "transformers"}),
        ("edgecompile.config.request", {"torch", "hydra", "numpy"}),
        ("edgecompile; edgecompile.solve, edgecompile.simulate", {"torch", "hydra", "transformers"}),
        ("edgecompile.contract.plan", {"torch", "hydra", "numpy"}),
        ("edgecompile.planning.planning_inputs", {"torch", "hydra", "numpy"}),
        ("edgelaunch.commands.launch_command", {"torch", "hydra", "transformers"}),
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
