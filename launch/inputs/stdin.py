"""Reads standard input as a live source: one sentence, image path or JSON object per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgelaunch.common.items import Entry, Item, Source
from edgelaunch.common.varying import Varying
from edgelaunch.inputs.bad_items import BadItems
from edgelaunch.inputs.fitting import LABEL_KEY, fit_json
from edgelaunch.inputs.labels import class_label
from edgelaunch.inputs.text import decode_line, skip_line

__all__ = ["open_stdin"]

MAX_LINE_BYTES = 64 << 20
"""Room for one large image as JSON numbers."""

Parse = Callable[[str, int, str], Item]
"""A line, the item's index, and the place for messages."""


def open_stdin(plan: ModelFacts, folder: Path, bad: BadItems) -> Source:
    """Items from standard input until it ends, each read when it is needed.

    A plan that takes text and has a tokenizer reads a sentence a line, empty ones too. Any other reads JSON: an object
    with an array, as nested lists, for each input, and perhaps `label`; or the array alone where the model has one
    input. A plan that takes images also reads paths of images. Of these, empty lines are left out and counted.

    Raises:
        UserError: the plan's tokenizer is invalid. While items are drawn: a line is invalid; names its number.
    """
    parse = _parser(plan, folder)
    return Source(
        items=_items(parse, bad, every_line=_takes_sentences(plan)), num_items=None, what="items of standard input"
    )


def _takes_sentences(plan: ModelFacts) -> bool:
    return plan.data.kind == "text" and plan.data.text is not None and plan.data.text.tokenizer is not None


def _parser(plan: ModelFacts, folder: Path) -> Parse:
    if _takes_sentences(plan):
        from edgelaunch.inputs.text import Encoder

        encoder = Encoder(plan, folder, "standard input")
        return lambda line, index, where: Item(Entry(index=index, name=line), encoder.encode(line))
    if plan.data.kind == "image" and plan.data.image is not None:
        return lambda line, index, where: _parse_image(plan, line, index, where)
    return lambda line, index, where: _parse_json(plan, line, index, where)


def _items(parse: Parse, bad: BadItems, *, every_line: bool) -> Iterator[Item]:
    index = number = 0
    while line := sys.stdin.buffer.readline(MAX_LINE_BYTES + 1):
        number += 1
        where = f"standard input:{number}"
        try:
            item = _item(line, index, where, parse, every_line=every_line)
        except UserError as error:
            if not bad.gap:
                raise
            skip_line(sys.stdin.buffer, line, MAX_LINE_BYTES)
            item = bad.missing(Entry(index=index), str(error))
        if item is not None:
            yield item
            index += 1
        else:
            bad.num_empty_lines += 1
    if not index:
        raise UserError("standard input: holds no items")


def _item(line: bytes, index: int, where: str, parse: Parse, *, every_line: bool) -> Item | None:
    """None for an empty line that is not an item."""
    if len(line) > MAX_LINE_BYTES:
        raise UserError(f"{where}: a line of more than {MAX_LINE_BYTES} bytes is not an item")
    text = decode_line(line, where).strip()
    return parse(text, index, where) if text or every_line else None


def _parse_image(plan: ModelFacts, line: str, index: int, where: str) -> Item:
    if line.startswith(("{", "[")):
        return _parse_json(plan, line, index, where)
    from edgelaunch.inputs.images import read_image

    path = Path(line)
    if not path.is_file():
        raise UserError(f"{where}: {line}: no such image")
    return Item(Entry(index=index, name=line), {plan.inputs[0].name: read_image(plan, path)})


def _parse_json(plan: ModelFacts, line: str, index: int, where: str) -> Item:
    names = [spec.name for spec in plan.inputs]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    if isinstance(value, list) and len(names) == 1:
        value = {names[0]: value}
    if not isinstance(value, dict):
        raise UserError(f"{where}: must be an object with an array for each input: {', '.join(names)}")
    label = class_label(plan, value.pop(LABEL_KEY, None), where) if LABEL_KEY not in names else None
    if set(value) != set(names):
        raise UserError(f"{where}: holds {', '.join(sorted(value)) or 'nothing'}, the model takes {', '.join(names)}")
    varying = Varying(plan)
    arrays = {spec.name: fit_json(value[spec.name], spec, where, varying.ranges) for spec in plan.inputs}
    varying.check(arrays, where)
    return Item(Entry(index=index, label=label), arrays)
