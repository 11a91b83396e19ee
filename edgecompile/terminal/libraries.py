"""Imports the modules that register custom operators, in the compiler and on every rank."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable

from edgecompile.contract.errors import UserError

__all__ = ["import_libraries"]


def import_libraries(names: Iterable[str]) -> None:
    """Imports modules by name; the working directory is looked through last, so that nothing there hides a library.

    Raises:
        UserError: one is not there, or fails; says which, and why.
    """
    for name in names:
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the user's module raises
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
            raise UserError(
                f"the module {name} cannot be imported here: {type(error).__name__}: {reason}",
                key="runtime.import",
                fix="install it into this Python's environment, or put its folder on PYTHONPATH",
            ) from error
