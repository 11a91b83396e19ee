"""Reads the weights that stand beside a program: safetensors files, mapped, and what the program's record says of them.

A program (a shard without its weights) takes them behind its inputs, in the order of the record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import weights_path

if TYPE_CHECKING:
    import torch

__all__ = ["WEIGHTS_RECORD", "StoredTensor", "read_record", "stored_tensors", "written_record"]

WEIGHTS_RECORD = "weights.json"
"""The file of a program's archive that says which tensors it takes behind its inputs."""
_COPIED_BYTES = 64 << 10
"""A smaller tensor is copied out of its file: what is mapped for the large one goes when that one is prepacked."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of a weights file, and how the program sees it."""

    file: str
    """The file's sha256."""
    name: str
    shape: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    """In elements of what is stored; None: as it is stored."""
    offset: int = 0


def written_record(tensors: Sequence[StoredTensor]) -> str:
    """The record as the archive holds it."""
    files = sorted({item.file for item in tensors})
    rows = [[files.index(item.file), item.name, *_view(item)] for item in tensors]
    return json.dumps({"files": files, "tensors": rows}, separators=(",", ":"))


def _view(item: StoredTensor) -> list[Any]:
    if item.shape is None or item.stride is None:
        return []
    return [list(item.shape), list(item.stride), item.offset]


def read_record(text: str | bytes, where: Path) -> tuple[StoredTensor, ...]:
    """None for a shard that holds its weights itself. Raises UserError where this version cannot read the record."""
    if not text:
        return ()
    try:
        record = json.loads(text)
        files = [str(file) for file in record["files"]]
        return tuple(
            StoredTensor(
                file=files[row[0]], name=str(row[1]),
                shape=tuple(row[2]) if len(row) > 2 else None, stride=tuple(row[3]) if len(row) > 2 else None,
                offset=int(row[4]) if len(row) > 2 else 0,
            )
            for row in record["tensors"]
        )  # fmt: skip
    except (ValueError, TypeError, LookupError):
        raise UserError(f"{where}: what it says of its weights cannot be read",
                        fix="compile again, or install the edgecompile that wrote it") from None  # fmt: skip


def stored_tensors(items: Sequence[StoredTensor], folder: Path, device: str = "cpu") -> list[torch.Tensor]:
    """The tensors themselves, mapped from their files. The files' bytes have been checked.

    Args:
        folder: the plan's, with `weights/` in it.

    Raises:
        UserError: a file is missing, or does not hold what the record says.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[tuple[str, str], torch.Tensor] = {}
    for file in dict.fromkeys(item.file for item in items):
        path = folder / weights_path(file)
        try:
            with safe_open(str(path), framework="pt") as opened:
                for name in dict.fromkeys(item.name for item in items if item.file == file):
                    found[file, name] = _own(opened.get_tensor(name)).to(device)
        except FileNotFoundError:
            raise UserError(f"{path}: this weights file of the plan is missing",
                            fix="copy it again from where the plan was compiled") from None  # fmt: skip
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: this weights file cannot be read: {error}") from None
    return [_seen(found[item.file, item.name], item) for item in items]


def _own(value: torch.Tensor) -> torch.Tensor:
    small = value.numel() * value.element_size() < _COPIED_BYTES
    return value.clone() if small else value


def _seen(value: torch.Tensor, item: StoredTensor) -> torch.Tensor:
    if item.shape is None or item.stride is None:
        return value
    return value.as_strided(item.shape, item.stride, value.storage_offset() + item.offset)
