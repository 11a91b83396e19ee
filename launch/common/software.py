"""The software versions that ranks exchange when they join, and whether they are compatible. Imports no torch early."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgecompile.contract.errors import UserError
from edgelaunch.common.failures import NamedRankError

__all__ = ["PROTOCOL", "Software", "mismatch", "own_version"]

PROTOCOL = 7
"""Of all that ranks say to each other: messages, their layout, texts in the store. Changed with any of them."""
MOST_LETTERS = 60
"""Longest version text that is accepted: it may come from an untrusted process."""


@dataclass(frozen=True, kw_only=True)
class Software:
    protocol: int
    edgecompile: str
    torch: str
    python: str

    @staticmethod
    def own() -> Software:
        import torch

        return Software(protocol=PROTOCOL, edgecompile=own_version(), torch=str(torch.__version__),
                        python=platform.python_version())  # fmt: skip

    @staticmethod
    def read(values: Mapping[str, Any]) -> Software | None:
        """None where these are not versions. Other keys are ignored: a later version may have more."""
        names = [field.name for field in fields(Software) if field.name != "protocol"]
        protocol, texts = values.get("protocol"), {name: values.get(name) for name in names}
        if not isinstance(protocol, int) or not all(_is_version(text) for text in texts.values()):
            return None
        return Software(protocol=protocol, **{name: str(text) for name, text in texts.items()})

    def values(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        return f"edgecompile {self.edgecompile} (protocol {self.protocol}), torch {self.torch}, Python {self.python}"

    def unlike(self, other: Software) -> str:
        """Which packages differ, with the versions here; empty where none does."""
        names = {"edgecompile": "edgecompile", "torch": "torch", "python": "Python"}
        own, others = self.values(), other.values()
        return ", ".join(f"{name} {own[key]}" for key, name in names.items() if own[key] != others[key])


def own_version() -> str:
    """Of the package."""
    from edgelaunch import __version__

    return __version__


def mismatch(name: str, software: Software, other_name: str, other: Software) -> UserError | None:
    """Why two ranks cannot talk to each other; None where they can."""
    if software.protocol == other.protocol:
        return None
    return NamedRankError(
        f"{name} has edgecompile {software.edgecompile} (protocol {software.protocol}) and {other_name} "
        f"{other.edgecompile} (protocol {other.protocol})",
        fix="install the same version of edgecompile on both",
    )


def _is_version(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= MOST_LETTERS and text.isascii() and text.isprintable()
