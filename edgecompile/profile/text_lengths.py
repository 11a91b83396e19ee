"""Lengths of texts in a model's tokens."""

from __future__ import annotations

from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import read_text
from edgecompile.contract.plan import Dim, TextSpec

__all__ = ["text_lengths"]

_MOST_BYTES = 64 << 20
_MOST_TEXTS = 4096


def text_lengths(path: Path, spec: TextSpec | None, folder: Path, dim: Dim) -> tuple[int, ...]:
    """Of the file's first lines, a text each, as the feeder will have them.

    Args:
        folder: the plan's, beside which the tokenizer lies.

    Raises:
        UserError: the plan has no tokenizer, or the file no text.
    """
    if spec is None or spec.tokenizer is None:
        raise UserError(f"workload: {path}: texts need the model's tokenizer: give data.text.tokenizer, or lengths")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / spec.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(spec.max_length)
    hint = "a sentence a line, as UTF-8"
    lines = read_text(path, what="workload", max_bytes=_MOST_BYTES, hint=hint).splitlines()[:_MOST_TEXTS]
    if not lines:
        raise UserError(f"workload: {path}: holds no text: {hint}")
    found = [len(item.ids) for item in tokenizer.encode_batch([line.strip() for line in lines])]
    return tuple(min(max(length, dim.min), dim.max) for length in found)
