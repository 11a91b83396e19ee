"""Files that a config names: paths, or files that an installed Python package ships."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from edgecompile.contract.errors import UserError

__all__ = ["resource_path"]


def resource_path(location: str, key: str) -> Path:
    """A path, or `pkg://PACKAGE/PATH`: a file that an installed Python package ships.

    Raises:
        UserError: nothing is there.
    """
    if not location.startswith("pkg://"):
        path = Path(location).expanduser()
    else:
        package, _, inner = location.removeprefix("pkg://").partition("/")
        try:
            spec = find_spec(package)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"{location}: the Python package {package!r} is not installed", key=key)
        path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.exists():
        raise UserError(f"{location}: no such file or directory", key=key)
    return path
