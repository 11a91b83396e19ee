"""Writes files atomically: to a temporary name, then renamed into place. Imports no torch."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["file_sha256", "replacing", "store", "temporary_in"]


def file_sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes, read in pieces so large that a thread which hashes leaves Python to the others."""
    if stat.S_ISFIFO(os.stat(path).st_mode):  # to read it would wait for who writes
        raise OSError(errno.EINVAL, "not a regular file")
    digest = hashlib.sha256()
    piece = memoryview(bytearray(4 << 20))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def store(folder: Path, suffix: str, write: Callable[[Path], object]) -> tuple[Path, str]:
    """Keeps what `write` writes to the path that it is given as `folder/<sha256><suffix>`.

    Returns:
        The file and the hex digest of its bytes.
    """
    with temporary_in(folder) as temporary:
        mode = _usual_mode(temporary)
        write(temporary)
        digest = file_sha256(temporary)
        path = folder / f"{digest}{suffix}"
        _move(temporary, path, mode)
    return path, digest


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end: a crash leaves the old file or the new one."""
    with temporary_in(path.parent, path.name) as temporary:
        mode = _usual_mode(temporary)
        yield temporary
        _move(temporary, path, mode)


@contextmanager
def temporary_in(folder: Path, name: str = "") -> Iterator[Path]:
    """A path for a file in `folder`, which is made; whatever is left there at the end is removed, also on failure."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{secrets.token_hex(8)}.tmp"  # nobody knows it before: no link waits there
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _usual_mode(temporary: Path) -> int:
    """The permissions of a new file here: what the umask leaves, or the folder's default access list.

    Some writers put another file in place of the one that they are told to write, readable by its owner alone:
    safetensors does from 0.8 on. What root compiled would not run for a service's user.
    """
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        temporary.unlink()


def _move(temporary: Path, path: Path, mode: int) -> None:
    """Renames once the bytes are on the disk, so that no name ever stands for half a file."""
    with open(temporary, "rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != mode:
            with suppress(OSError):  # a file system without permissions
                os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    os.replace(temporary, path)
