"""Who imports whom in a source tree, late imports and those for type checkers included."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

Graph = Mapping[str, set[str]]


def module_graph(root: Path, package: str) -> dict[str, set[str]]:
    """By module, such as `wire.formats`: the modules of the same package that it imports."""
    paths = {name_of(path, root): path for path in sorted(root.rglob("*.py"))}
    return {name: _imports(path, package, set(paths)) - {name} for name, path in paths.items()}


def name_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _imports(path: Path, package: str, modules: set[str]) -> set[str]:
    return {name.removeprefix(f"{package}.") for name in imported_names(path)} & modules


def imported_names(path: Path) -> set[str]:
    """Full names of all modules that a file imports, and of what it takes out of them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import: write the whole name"
            assert node.module is not None
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def room_of(module: str, rooms: set[str]) -> str:
    """The room that a module lies in: the longest that its name begins with; a module outside of all is its own."""
    parts = module.split(".")
    beginnings = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in beginnings if name in rooms), module)


def room_graph(graph: Graph, rooms: set[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, others in graph.items():
        room = room_of(module, rooms)
        found.setdefault(room, set()).update({room_of(other, rooms) for other in others} - {room})
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Sets of two or more nodes of which each reaches all others (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in order:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == order[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in graph:
        if node not in order:
            visit(node)
    return found
