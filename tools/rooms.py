"""Writes the tables of rooms in docs/architecture.md from tests/test_structure.py and the modules' docstrings.

python tools/rooms.py            # write them
python tools/rooms.py --check    # exit status 1 where they are out of date
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "architecture.md"
TREES = {"edgecompile": ROOT / "edgecompile", "edgelaunch": ROOT / "launch"}


def rooms() -> dict[str, dict[str, str]]:
    """The table ROOMS: for each tree its packages and what they may import."""
    tree = ast.parse((ROOT / "tests" / "test_structure.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ROOMS" and node.value is not None:
            found: dict[str, dict[str, str]] = ast.literal_eval(node.value)
            return found
    raise AssertionError("tests/test_structure.py has no table ROOMS")


def purpose_of(path: Path) -> str:
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def table(tree: str) -> str:
    lines = ["| room | what it is for | imports |", "|---|---|---|"]
    for room, others in rooms()[tree].items():
        path = TREES[tree].joinpath(*room.split("."))
        imports = ", ".join(f"`{other}`" for other in others.split())
        purpose = purpose_of(path).replace("|", "\\|")
        lines.append(f"| `{room.replace('.', '/')}` | {purpose} | {imports or 'nothing of ours'} |")
    return "\n".join(lines)


def main() -> int:
    before = text = TARGET.read_text(encoding="utf-8")
    for tree in TREES:
        begin, end = f"<!-- rooms of {tree}: `make reference` writes them -->\n", f"<!-- end of rooms of {tree} -->"
        assert begin in text, f"docs/architecture.md has no rooms of {tree}"
        assert end in text, f"docs/architecture.md has no rooms of {tree}"
        text = f"{text.partition(begin)[0]}{begin}{table(tree)}\n{end}{text.partition(end)[2]}"
    if "--check" in sys.argv[1:]:
        return int(text != before)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
