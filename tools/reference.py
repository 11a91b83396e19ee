"""Writes docs/reference.md from the config's schema and the boards' files.

python tools/reference.py            # write it
python tools/reference.py --check    # exit status 1 where it is out of date
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "reference.md"
SHARED = ROOT / "edgecompile" / "execution" / "message_layout.py"
OLDEST_PYTHON = (3, 10)
INTRODUCTION = """# Every key

Generated from `edgecompile/config/schema.py` and `conf/board` by `tools/reference.py`; a test keeps it up to date.

Keys are given as `section.key=value` on the command line or in a YAML file of a `--config-dir`. Quantities are numbers
in SI units, or text with a unit: `50Mbps`, `4GB`, `200us`, `180 GFLOPS`. `edgecompile --help` lists the groups,
`--cfg job` prints what a command composes, `--info` where it comes from; `eval "$(edgecompile --completion bash)"` (or
zsh) completes keys and options.
"""
BOARDS = """
## Boards

Peaks are the data sheet's; `efficiency` is the share that matrix products reach. Boards whose vendor's system has a
Python older than 3.10 can only be planned for (JetPack 6 has 3.10, JetPack 5 has 3.8): `devices=jetson_legacy` has
them, all other clusters only boards that run ranks.

| board | peak | reached | memory bandwidth | memory | runs ranks | source |
|---|---|---|---|---|---|---|"""


def classes() -> dict[str, ast.ClassDef]:
    tree = ast.parse((ROOT / "edgecompile" / "config" / "schema.py").read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def default_of(node: ast.AnnAssign) -> str:
    value = node.value
    if isinstance(value, ast.Call):
        for keyword in value.keywords:
            if keyword.arg == "default_factory":
                inner = keyword.value
                return ast.unparse(inner.body) if isinstance(inner, ast.Lambda) else {"list": "[]", "dict": "{}"}.get(
                    ast.unparse(inner), "")  # fmt: skip
    if isinstance(value, ast.Attribute):
        return value.attr
    if isinstance(value, ast.Constant):
        return text_of(value.value)
    return text_of(shared_constant(value.id)) if isinstance(value, ast.Name) else ""


def shared_constant(name: str) -> object:
    """A default that ranks and compiler share."""
    for node in ast.parse(SHARED.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            names, values = node.targets[0], node.value
            if isinstance(names, ast.Tuple) and isinstance(values, ast.Tuple):
                for target, constant in zip(names.elts, values.elts, strict=True):
                    if ast.unparse(target) == name:
                        return ast.literal_eval(constant)
    raise AssertionError(f"{SHARED} has no {name}")


def text_of(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return {None: "null", "???": "required"}.get(value, str(value))  # type: ignore[call-overload]


def keyword_of(node: ast.stmt) -> str | None:
    """The key of `vars()["import"] = field(...)`: a keyword of Python's, which no annotation can name."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        target = node.targets[0]
        if ast.unparse(target.value) == "vars()" and isinstance(target.slice, ast.Constant):
            return str(target.slice.value)
    return None


def said_after(body: list[ast.stmt], index: int) -> str:
    following = body[index + 1] if index + 1 < len(body) else None
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return " ".join(str(following.value.value).split())
    return ""


def rows(known: dict[str, ast.ClassDef], name: str, prefix: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    body = known[name].body
    for index, node in enumerate(body):
        keyword = keyword_of(node)
        if keyword is not None:
            found.append((f"{prefix}{keyword}", "null", said_after(body, index)))
        if not isinstance(node, ast.AnnAssign):
            continue
        key = f"{prefix}{ast.unparse(node.target)}"
        kind = ast.unparse(node.annotation)
        said = said_after(body, index)
        inner = next((item for item in known if item in kind and item.endswith("Conf")), None)
        if inner is None:
            found.append((key, default_of(node), said))
        elif kind.startswith("dict"):
            found += rows(known, inner, f"{key}.NAME.")
        else:
            found += rows(known, inner, f"{key}.")
    return found


def cell(text: Any) -> str:
    return str(text).replace("|", "\\|")


def boards() -> list[str]:
    lines = [BOARDS]
    for path in sorted((ROOT / "conf" / "board").glob("*.yaml")):
        board = yaml.safe_load(path.read_text(encoding="utf-8"))
        dtype = board.get("dtype", "float32")
        python = str(board.get("python") or "")
        new = not python or tuple(int(part) for part in python.split(".")) >= OLDEST_PYTHON
        runs = f"yes, Python {python}" if python and new else "yes" if new else f"planned for only, Python {python}"
        peak, efficiency = f"{board['peak'][dtype]} {dtype}", f"{float(board['efficiency']):.0%}"
        cells = (f"`{path.stem}`", peak, efficiency, board["memory_bandwidth"], board["memory"], runs,
                 board.get("source", ""))  # fmt: skip
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return lines


def text() -> str:
    known = classes()
    lines = [INTRODUCTION, "| key | default | |", "|---|---|---|"]
    lines += [f"| `{key}` | {f'`{default}`' if default else ''} | {cell(said)} |"
              for key, default, said in rows(known, "Conf", "")]  # fmt: skip
    return "\n".join([*lines, *boards()]) + "\n"


def main() -> int:
    wanted = text()
    if "--check" in sys.argv[1:]:
        return int(TARGET.read_text(encoding="utf-8") != wanted)
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
