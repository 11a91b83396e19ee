"""Reads sentences as input, from .txt, .jsonl and GLUE .tsv files, with the plan's tokenizer."""

from __future__ import annotations

import json
import os
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgecompile.contract.plan import TensorSpec, TextSpec
from edgelaunch.common.items import Entry, Item, Source
from edgelaunch.common.shard_files import check_file
from edgelaunch.common.varying import Varying, range_of
from edgelaunch.inputs.bad_items import BadItems
from edgelaunch.inputs.fitting import fit
from edgelaunch.inputs.labels import class_label

__all__ = ["Encoder", "decode_line", "open_text", "skip_line"]

MAX_LINE_BYTES = 1 << 20
COLA_COLUMNS = 4
CLASS_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class Sentence:
    text: str
    label: int | None = None
    error: str | None = None
    """Why the line could not be read."""


Parse = Callable[[str, str], Sentence | None]
"""A line, without its end, and its place for messages; None: an empty line, where that is not a sentence."""


def open_text(plan: ModelFacts, folder: Path, path: Path, bad: BadItems) -> Source:
    """Sentences of a file, one a line.

    Raises:
        UserError: the model takes no text, the plan has no tokenizer, or a line cannot be read; names file and line.
    """
    encoder = Encoder(plan, folder, str(path))
    line_parser = {".txt": _parse_txt, ".jsonl": _parse_jsonl, ".tsv": _parse_tsv}[path.suffix.lower()]

    def parse(line: str, where: str) -> Sentence | None:
        sentence = line_parser(line, where)
        return sentence and replace(sentence, label=class_label(plan, sentence.label, where))

    num_items = num_labelled = num_empty = 0
    for sentence in _sentences(path, parse, bad.gap):
        if sentence is None:
            num_empty += 1
            continue
        num_items += 1
        num_labelled += sentence.label is not None
    bad.num_empty_lines += num_empty
    if num_empty:
        bad.note(f"{path}: skipped {num_empty} empty line{'s' if num_empty > 1 else ''}, which have no result")
    what = f"{num_items} sentences of {path.name}"
    again = partial(_items, path, parse, encoder, bad)
    labelled = 0 < num_items == num_labelled
    return Source(items=again(), again=again, num_items=num_items, what=what, labelled=labelled)


def _items(path: Path, parse: Parse, encoder: Encoder, bad: BadItems) -> Iterator[Item]:
    sentences = (sentence for sentence in _sentences(path, parse, bad.gap) if sentence is not None)
    for index, sentence in enumerate(sentences):
        if sentence.error is not None:
            yield bad.missing(Entry(index=index), sentence.error)
            continue
        entry = Entry(index=index, name=sentence.text, label=sentence.label)
        yield bad.item(entry, lambda text=sentence.text: encoder.encode(text))  # type: ignore[misc]


class Encoder:
    """A sentence to the model's inputs: token ids, and mask and types where the model takes them."""

    def __init__(self, plan: ModelFacts, folder: Path, where: str) -> None:
        """Raises UserError where the model takes no text or the plan has no tokenizer."""
        spec = plan.data.text
        if plan.data.kind != "text" or spec is None:
            raise UserError(
                f"{where}: holds sentences, but {plan.model.name} takes {plan.data.kind} input: give arrays instead"
            )
        if spec.tokenizer is None or spec.sha256 is None:
            raise UserError(f"{where}: the plan has no tokenizer: compile with data.text.tokenizer, or give token ids")
        names = {spec.ids, spec.mask, spec.types}
        for tensor in plan.inputs:
            if tensor.name not in names:
                raise UserError(
                    f"{where}: text gives no {tensor.name}, which {plan.model.name} takes: give arrays instead"
                )
        check_file(folder / spec.tokenizer, spec.sha256, "the tokenizer", "copy it again with the plan")
        self._varying = Varying(plan)
        least, most = self._lengths(plan, spec)
        self._tokenizer = _load_tokenizer(folder / spec.tokenizer, least, most)
        self._spec, self._inputs, self._where = spec, plan.inputs, where

    def _lengths(self, plan: ModelFacts, spec: TextSpec) -> tuple[int, int]:
        """How many tokens a sentence has at least, or is padded to, and at most."""
        ids = next((tensor for tensor in plan.inputs if tensor.name == spec.ids), None)
        text = ids.dims[1] if ids is not None and len(ids.dims) == 2 else None
        if text is None:
            return spec.max_length, spec.max_length
        least, most = range_of(text, self._varying.ranges)
        return least, min(most, spec.max_length)

    def encode(self, text: str) -> dict[str, Any]:
        """Arrays by input name in the input's dtype: each (max_length,), or as many as there are where that varies.

        Raises UserError for half a character.
        """
        encoding = self._tokenizer.encode(_whole(text, self._where))
        return self._columns(encoding.ids, encoding.attention_mask, encoding.type_ids)

    def encode_tokens(self, ids: Sequence[int]) -> dict[str, Any]:
        """As encode, of token ids, the special ones included. Raises UserError where they are none of the model's."""
        padding = self._tokenizer.padding
        least, most = padding["length"], self._tokenizer.truncation["max_length"]
        if not 1 <= len(ids) <= most:
            raise UserError(f"{self._where}: {len(ids)} tokens, the model takes 1 to {most}")
        count = self._tokenizer.get_vocab_size()
        wrong = next((number for number in ids if not 0 <= number < count), None)
        if wrong is not None:
            raise UserError(f"{self._where}: token {wrong} is none of the model's {count}")
        more = max(0, least - len(ids))
        columns = ([*ids], [1] * len(ids), [0] * len(ids))
        filler = (padding["pad_id"], 0, padding["pad_type_id"])
        left = padding["direction"] == "left"
        ids, mask, types = (
            [value] * more + column if left else column + [value] * more
            for column, value in zip(columns, filler, strict=True)
        )
        return self._columns(ids, mask, types)

    def num_tokens(self, arrays: Mapping[str, Any]) -> int:
        """Of an item as encoded; padding does not count where the model has a mask."""
        mask = self._spec.mask
        return int(arrays[mask].sum() if mask is not None and mask in arrays else arrays[self._spec.ids].size)

    def _columns(self, ids: Sequence[int], mask: Sequence[int], types: Sequence[int]) -> dict[str, Any]:
        columns = {self._spec.ids: ids, self._spec.mask: mask, self._spec.types: types}
        return {spec.name: self._column(columns[spec.name], spec) for spec in self._inputs}

    def _column(self, values: Sequence[int], spec: TensorSpec) -> Any:
        array = np.asarray(values, dtype=np.int64)
        if "float" in spec.dtype:  # some models take their mask as floats
            array = array.astype(np.float32)
        return fit(array, spec, self._where, self._varying.ranges)


def _load_tokenizer(path: Path, least: int, most: int) -> Any:
    """It pads sentences to `least` tokens and cuts them after `most`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises bare Exception
        raise UserError(f"{path}: not a readable tokenizer: {error}") from None
    padding = dict(tokenizer.padding or {})
    token = padding.get("pad_token")
    if token is None:
        known = [
            name for name in ("[PAD]", "<pad>", "<|endoftext|>", "</s>") if tokenizer.token_to_id(name) is not None
        ]
        token = known[0] if known else None
    number = tokenizer.token_to_id(token) if token is not None else None
    tokenizer.enable_truncation(most)
    tokenizer.enable_padding(
        length=least,
        direction=padding.get("direction", "right"),
        pad_id=number if number is not None else 0,
        pad_token=token if token is not None else "[PAD]",
        pad_type_id=padding.get("pad_type_id", 0),
    )
    return tokenizer


# --- files ---------------------------------------------------------------------------------------------------------


def _sentences(path: Path, parse: Parse, gap: bool) -> Iterator[Sentence | None]:
    """`gap`: a line that cannot be read is a sentence with an error. None for an empty line."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{path}:{number}"
                try:
                    if len(line) > MAX_LINE_BYTES:
                        skip_line(file, line, MAX_LINE_BYTES)
                        raise UserError(f"{where}: a line of more than {MAX_LINE_BYTES} bytes is not a sentence")
                    text = decode_line(line, where)
                    if number == 1 and (_is_heading(text, path) or line == BOM_UTF8):
                        continue
                    sentence = parse(text, where)
                except UserError as error:
                    if not gap:
                        raise
                    sentence = Sentence("", error=str(error))
                yield sentence
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def skip_line(file: BinaryIO, line: bytes, step: int) -> None:
    """Reads on to the end of the line that `line` is the beginning of."""
    while line and not line.endswith(b"\n"):
        line = file.readline(step)


def decode_line(line: bytes, where: str) -> str:
    """A line's text, without its end and without the byte order mark that an editor has put before it.

    Raises:
        UserError: it is not UTF-8 text.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} is not UTF-8 text") from None
    if "\0" in text:
        raise UserError(f"{where}: holds a zero byte, as UTF-16 does: save the text as UTF-8")
    return text.rstrip("\r\n").removeprefix("\ufeff")


def _is_heading(line: str, path: Path) -> bool:
    """Of GLUE's test files."""
    return path.suffix.lower() == ".tsv" and line.split("\t") == ["index", "sentence"]


def _parse_txt(line: str, where: str) -> Sentence:
    """Every line is a sentence, an empty one too: row N of the results is line N of the file."""
    return Sentence(line.strip())


def _parse_jsonl(line: str, where: str) -> Sentence | None:
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    if isinstance(value, str):
        return Sentence(_whole(value, where))
    text = value.get("text", value.get("sentence")) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{where}: must be a string, or an object with a string `text` or `sentence`")
    return Sentence(_whole(text, where), value.get("label"))


def _whole(text: str, where: str) -> str:
    """The text itself. Raises UserError where JSON's escapes make half of a character that takes two of them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode("ascii")
        raise UserError(
            f"{where}: {half} is half a character (a lone surrogate, as when an emoji is cut in two): write it whole"
        ) from None
    return text


def _parse_tsv(line: str, where: str) -> Sentence | None:
    """GLUE CoLA: source, label, star, sentence, without a header; or its test file, index and sentence."""
    if not line.strip():
        return None
    cells = line.split("\t")
    if len(cells) == COLA_COLUMNS and CLASS_NUMBER.fullmatch(cells[1]):
        return Sentence(cells[3], int(cells[1]))
    if len(cells) == 2 and CLASS_NUMBER.fullmatch(cells[0]):
        return Sentence(cells[1])
    raise UserError(
        f"{where}: {len(cells)} columns are not GLUE CoLA: expected source, label (a class number), star, "
        "sentence, or in a test file index, sentence"
    )
