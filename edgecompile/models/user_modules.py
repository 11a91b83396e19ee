"""Imports user modules from the current folder, and only those that a config names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["find_named_modules", "why_not_found"]

_KEYS = {"_target_", "architecture", "path"}
"""Of a model option: what may name a module, a dot before each of its parts."""


def find_named_modules(build: Any) -> None:
    """Lets `import` find in the working folder what `build` names and nothing installed is called.

    The folder comes last, and only where it has such a module: a `torch.py` that happens to lie there is never imported
    instead of an installed package.
    """
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        return
    if any(_is_here(name, folder) and not _is_installed(name) for name in _packages(build)):
        sys.path.append(folder)
        importlib.invalidate_caches()


def why_not_found(target: str) -> str:
    """For the end of a message about a target that cannot be imported; empty where there is nothing to say."""
    name = target.partition(".")[0]
    folder = os.getcwd()
    if not _is_here(name, folder):
        return "" if _is_installed(name) else f": no module {name} is installed, or in this folder, {folder}"
    module = sys.modules.get(name)
    place = getattr(module, "__file__", None) or ", ".join(getattr(module, "__path__", []))
    if place and not os.path.realpath(place).startswith(os.path.realpath(folder) + os.sep):
        return f": {name} is {place}, which takes precedence over the one in this folder: give yours another name"
    return ""


def _packages(build: Any) -> Iterator[str]:
    """The outermost package of every dotted name."""
    pairs = build.items() if isinstance(build, dict) else enumerate(build) if isinstance(build, list) else ()
    for key, value in pairs:
        if isinstance(value, (dict, list)):
            yield from _packages(value)
        elif key in _KEYS and isinstance(value, str) and all(part.isidentifier() for part in value.split(".")):
            name, dot, _ = value.partition(".")
            if dot:
                yield name


def _is_here(name: str, folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, f"{name}.py")) or os.path.isdir(os.path.join(folder, name))


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
