"""Explains why a pt2 (torch.export) shard cannot be read: it may need a torch as new as the one that wrote it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from edgecompile.contract.errors import UserError

__all__ = ["exported_by", "is_newer", "unreadable_pt2"]

PROGRAMS = ("models/model.json", "serialized_exported_program.json")
"""How the names of the records end that say which torch wrote them: from 2.7 on, and before."""


def unreadable_pt2(path: Path, error: Exception) -> UserError:
    """What to tell where this torch cannot read an archive: which one wrote it, and what to do."""
    import torch

    lines = str(error).strip().strip("'\"").splitlines()
    reason = f"{type(error).__name__}: {lines[0] if lines else '?'}"
    here, writer = str(torch.__version__), exported_by(path)
    if writer is not None and is_newer(writer, here):
        least = writer.partition("+")[0]
        return UserError(
            f"torch {here} cannot load this pt2 shard, which torch {writer} wrote ({reason})", key=str(path),
            fix=f"install torch {least} or later on this rank, or compile with artifact=torchscript, which older ones "
            "read too",
        )  # fmt: skip
    return UserError(
        f"torch {here} cannot load this pt2 shard, which torch {writer or 'of an unknown version'} wrote ({reason})",
        key=str(path), fix="compile again with this rank's torch, or with artifact=torchscript",
    )  # fmt: skip


def exported_by(path: Path) -> str | None:
    """The version of the torch that wrote an archive; None where it does not say."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(PROGRAMS):
                    version = json.loads(archive.read(name)).get("torch_version")
                    return version if isinstance(version, str) else None
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile):
        pass
    return None


def is_newer(version: str, other: str) -> bool:
    """By release: a build's own label says nothing."""
    from torch.torch_version import TorchVersion

    try:
        return bool(TorchVersion(version.partition("+")[0]) > TorchVersion(other.partition("+")[0]))
    except ValueError:
        return False
