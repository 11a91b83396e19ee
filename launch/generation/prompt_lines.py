"""Requests for text from the lines of a .jsonl or .txt file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError, nearest
from edgecompile.contract.generation import Generation
from edgelaunch.generation.answers import TextRequest
from edgelaunch.generation.dialogue import Spelling, check_whole
from edgelaunch.generation.token_choice import Sampling
from edgelaunch.inputs.text import MAX_LINE_BYTES, decode_line, skip_line

__all__ = ["Asked", "Defaults", "checked_messages", "read_lines", "request_from"]

_KEYS = ("id", "prompt", "messages", "tokens", "max_tokens", "stop", "temperature", "top_k", "top_p",
         "repetition_penalty", "seed", "ignore_end")  # fmt: skip
_ROLES = ("system", "user", "assistant", "tool", "developer")


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a request has where its line says nothing."""

    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A line's request, or why it is none."""

    id: Any
    """As the line states it, or None: no other line's is ever taken for it."""
    line: int
    request: TextRequest | None = None
    error: str | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """What its answer, or its error, begins with. Lines that state no id go by their number; one without a request
        may be part of another, and has none."""
        unnamed = self.line if self.request is not None else None
        return {"id": unnamed if self.id is None else self.id, "line": self.line}


def read_lines(path: Path, generation: Generation, spelling: Spelling | None, defaults: Defaults) -> Iterator[Asked]:
    """Each line's request, in order; empty lines are skipped, and a line that is none has its reason.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{path}:{number}"
                if len(line) > MAX_LINE_BYTES:
                    skip_line(file, line, MAX_LINE_BYTES)
                    yield Asked(id=None, line=number, error=f"{where}: a line of more than {MAX_LINE_BYTES} bytes")
                elif line.strip():
                    yield _asked(line, where, number, path.suffix.lower(), generation, spelling, defaults)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _asked(
    line: bytes, where: str, number: int, suffix: str, generation: Generation, spelling: Spelling | None,
    defaults: Defaults,
) -> Asked:  # fmt: skip
    own: Any = None
    try:
        text = decode_line(line, where)
        value: Any = text if suffix == ".txt" else _json(text, where)
        if isinstance(value, Mapping) and "id" in value:
            if isinstance(value["id"], bool) or not isinstance(value["id"], (str, int)):
                raise UserError(f"{where}: invalid value {value['id']!r} for id: expected a string or a whole number")
            check_whole(str(value["id"]), where, "id")
            own = value["id"]
        return Asked(id=own, line=number, request=request_from(value, where, generation, spelling, defaults))
    except UserError as error:
        return Asked(id=own, line=number, error=str(error))


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def request_from(
    value: Any, where: str, generation: Generation, spelling: Spelling | None, defaults: Defaults
) -> TextRequest:
    """Of a text to be continued, a list of token ids, or a mapping with `prompt`, `messages` or `tokens`.

    Raises:
        UserError: it is none of these, or the plan does not allow it.
    """
    if isinstance(value, str):
        value = {"prompt": value}
    if isinstance(value, Sequence):
        value = {"tokens": list(value)}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected a string or an object with a prompt, messages or tokens")
    for key in value:
        if key not in _KEYS:
            near = nearest(str(key), _KEYS)
            raise UserError(f"{where}: unknown key {key!r}{f': did you mean {near[0]}?' if near else ''}")
    prompt = _prompt(value, where, spelling)
    base = defaults.sampling
    sampling = replace(
        base, temperature=_number(value, "temperature", base.temperature, where),
        top_p=_number(value, "top_p", base.top_p, where),
        repetition_penalty=_number(value, "repetition_penalty", base.repetition_penalty, where),
        top_k=_whole(value, "top_k", base.top_k, where), seed=_whole(value, "seed", base.seed, where),
    )  # fmt: skip
    stop = value.get("stop", list(defaults.stops))
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        raise UserError(f"{where}: invalid value {stop!r} for stop: expected a string or a list of strings")
    if stops and spelling is None:
        raise UserError(f"{where}: stop words need the tokenizer, and the plan has none")
    ignore_end = value.get("ignore_end", False)
    if not isinstance(ignore_end, bool):
        raise UserError(f"{where}: invalid value {ignore_end!r} for ignore_end: expected true or false")
    request = TextRequest(
        prompt=tuple(prompt), sampling=sampling, stops=tuple(stops), ignore_end=ignore_end,
        max_tokens=_whole(value, "max_tokens", defaults.max_tokens, where),
    )  # fmt: skip
    request.check(generation, where)
    return request


def _prompt(value: Mapping[str, Any], where: str, spelling: Spelling | None) -> list[int]:
    given = [key for key in ("prompt", "messages", "tokens") if key in value]
    if len(given) != 1:
        raise UserError(f"{where}: expected one of prompt, messages and tokens, not {' and '.join(given) or 'none'}")
    content = value[given[0]]
    if given[0] == "tokens" or (given[0] == "prompt" and isinstance(content, list)):
        if not isinstance(content, list) or not all(type(item) is int for item in content):
            raise UserError(f"{where}: invalid value for {given[0]}: expected a list of token ids")
        return list(content)
    if spelling is None:
        raise UserError(f"{where}: the plan has no tokenizer: give token ids, or compile with generation.tokenizer=DIR")
    if given[0] == "messages":
        return spelling.dialogue_tokens(checked_messages(content, where), where)
    if not isinstance(content, str):
        raise UserError(f"{where}: invalid value {content!r} for prompt: expected a string")
    check_whole(content, where, "the prompt")
    return spelling.prompt_tokens(content)


def checked_messages(content: Any, where: str) -> list[Mapping[str, Any]]:
    """Raises UserError where it is not a conversation."""
    if not isinstance(content, list) or not content:
        raise UserError(f"{where}: messages: expected a list of one or more {{role, content}}")
    for index, message in enumerate(content):
        place = f"{where}: messages.{index}"
        if not isinstance(message, Mapping):
            raise UserError(f"{place}: expected an object with role and content")
        if message.get("role") not in _ROLES:
            raise UserError(f"{place}: invalid value {message.get('role')!r} for role: expected one of "
                            f"{', '.join(_ROLES)}")  # fmt: skip
        if not isinstance(message.get("content"), str):
            raise UserError(f"{place}: content: expected a string")
    return content


def _number(value: Mapping[str, Any], key: str, default: float, where: str) -> float:
    given = value.get(key)
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise UserError(f"{where}: invalid value {given!r} for {key}: expected a number")
    try:
        return float(given)
    except OverflowError:
        raise UserError(f"{where}: invalid value for {key}: a number of {len(str(given))} digits") from None


def _whole(value: Mapping[str, Any], key: str, default: int, where: str) -> int:
    given = value.get(key)
    if given is None:
        return default
    if type(given) is not int:
        raise UserError(f"{where}: invalid value {given!r} for {key}: expected a whole number")
    return given
