"""Files that are whole or not there: written beside their place under another name, then renamed. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["file_sha256", "replacing", "store", "temporary_in"]


def file_sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def store(folder: Path, suffix: str, write: Callable[[Path], object]) -> tuple[Path, str]:
    """Keeps what `write` writes to the path that it is given as `folder/<sha256><suffix>`.

    Returns:
        The file and the hex digest of its bytes.
    """
    with temporary_in(folder) as temporary:
        write(temporary)
        digest = file_sha256(temporary)
        path = folder / f"{digest}{suffix}"
        _move(temporary, path)
    return path, digest


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end: a crash leaves the old file or the new one."""
    with temporary_in(path.parent, path.name) as temporary:
        yield temporary
        _move(temporary, path)


@contextmanager
def temporary_in(folder: Path, name: str = "") -> Iterator[Path]:
    """A path for a file in `folder`, which is made; whatever is left there at the end is removed, also on failure."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _move(temporary: Path, path: Path) -> None:
    """Renames once the bytes are on the disk, so that no name ever stands for half a file."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
