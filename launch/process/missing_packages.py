"""The one-line error for a package that a rank needs and that is missing or broken."""

from __future__ import annotations

import sys

__all__ = ["PACKAGES", "explain_import"]

PACKAGES = {
    "torch": "torch", "numpy": "numpy", "yaml": "pyyaml", "PIL": "pillow", "rich": "rich", "safetensors": "safetensors",
    "tokenizers": "tokenizers",
}  # fmt: skip
"""Names that are imported, and those that pip installs."""


def explain_import(error: BaseException) -> str | None:
    """A message for the user; None where the error is ours.

    A torch of another system fails when it is imported: with an OSError of the dynamic linker, which has no name, or an
    ImportError, which has that of an inner module.
    """
    if not isinstance(error, (ImportError, OSError)):
        return None
    python = f"{sys.executable or 'python3'} -m pip install"
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES:
        which = "one that fits this device, 2.6 or later" if name == "torch" else "it"
        return f"{name} is not installed here, and a rank needs it: install {which} ({python} {PACKAGES[name]})"
    if name in PACKAGES or _importing(error) in PACKAGES:
        name = name if name in PACKAGES else _importing(error)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return (
            f"{name} cannot be imported here ({reason}): install one that fits this device ({python} {PACKAGES[name]})"
        )
    return None


def _importing(error: BaseException) -> str:
    """The package among those above whose own import failed; empty where none was being imported."""
    trace = error.__traceback__
    while trace is not None:
        names = trace.tb_frame.f_globals
        if trace.tb_frame.f_code.co_name == "<module>" and str(names.get("__name__")) in PACKAGES:
            return str(names["__name__"])
        trace = trace.tb_next
    return ""
