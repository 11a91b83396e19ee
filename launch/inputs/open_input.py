"""Opens `--input` as a lazily read stream of items: arrays, sentences or images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import check_regular
from edgecompile.contract.model_facts import ModelFacts
from edgelaunch.common.items import STDIN, Flush, Item, Source
from edgelaunch.inputs.bad_items import BadItems

__all__ = ["open_source"]

TEXT_SUFFIXES = (".txt", ".jsonl", ".tsv")
ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors")


def open_source(
    plan: ModelFacts, folder: Path, path: Path, limit: int | None, bad: BadItems | None = None, times: int = 1
) -> Source:
    """Opens `--input PATH` and checks what can be checked before the run; `-` is standard input.

    Args:
        folder: the plan's, where the tokenizer lies.
        limit: at most so many items; None for all.
        bad: what to do with an image or a line that cannot be read; None: it is an error. A damaged file of arrays
            always is.
        times: read it so often, one after the other; the limit is of all together.

    Raises:
        UserError: the path is missing, of a kind that this model does not take, empty, or has other names, shapes or
            dtypes than the model's inputs.
    """
    if str(path) != STDIN:
        if not path.exists():
            raise UserError(f"{path}: no such input")
        check_regular(path, "an input", f"--input {STDIN} reads standard input as it comes")
    source = _opener(path)(plan, folder, path, bad or BadItems(plan, gap=False))
    if source.num_items == 0:
        raise UserError(f"{path}: holds no items")
    if times > 1:
        known = None if source.num_items is None else times * source.num_items
        source = replace(source, items=_repeated(source, times), num_items=known)
    if limit is None:
        return source
    known = limit if source.num_items is None else min(limit, source.num_items)
    return replace(source, items=islice(source.items, limit), num_items=known)


def _repeated(source: Source, times: int) -> Iterator[Item | Flush]:
    assert source.again is not None
    first = 0
    for _ in range(times):
        count = 0
        for item in source.again():
            if isinstance(item, Item):
                count += 1
                yield replace(item, entry=replace(item.entry, index=first + item.entry.index))
            else:
                yield item
        first += count


def _opener(path: Path) -> Callable[[ModelFacts, Path, Path, BadItems], Source]:
    from edgelaunch.inputs import arrays, images, stdin, text

    if str(path) == STDIN:
        return lambda plan, folder, path, bad: stdin.open_stdin(plan, folder, bad)
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in images.SUFFIXES:
        return images.open_images
    if suffix in TEXT_SUFFIXES:
        return text.open_text
    if suffix in ARRAY_SUFFIXES:
        return arrays.open_arrays
    kinds = ", ".join((*ARRAY_SUFFIXES, *TEXT_SUFFIXES))
    raise UserError(f"{path}: unknown kind of input: expected a folder of images, an image, or a file {kinds}")
