"""Opens the files that edgeplan writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import replacing
from edgecompile.contract.files.user_files import check_overwrite

__all__ = ["check_output", "write_output"]


def check_output(path: Path, example: str, key: str, read: Iterable[tuple[Path, str]]) -> None:
    """Raises UserError where no file can be there, or where one of those that are read is.

    Args:
        example: a name that would do.
        key: the option that names the path.
        read: each with what it is.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path}: is a folder, or its folder does not exist: name a file such as {example}")
    check_overwrite(path, key, read)


def write_output(path: Path, text: str) -> None:
    """Whole or not at all. Raises UserError where it cannot be written."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
