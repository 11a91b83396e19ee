"""Prints what pyproject.toml asks for, with all extras: requirements that pip can install without the project.

`--rank`: without extras, what a rank needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
rank_alone = "--rank" in sys.argv[1:]
extras = [item for extra in project["optional-dependencies"].values() for item in extra if not rank_alone]
print("\n".join([*project["dependencies"], *extras]))
