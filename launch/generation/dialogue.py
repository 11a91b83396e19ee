"""Tokens of prompts and conversations, and text of tokens as they come."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import Generation
from edgelaunch.common.shard_files import check_file

__all__ = ["Message", "Spelling", "Text", "check_whole"]

Message = Mapping[str, Any]
"""`role` and `content`."""
_MOST_HELD = 16
"""Tokens that may make one character together, at most."""


def check_whole(text: str, where: str, what: str) -> None:
    """Raises UserError where JSON's escapes made half of a character that takes two of them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {what} holds half a character (a lone surrogate): write it whole") from None


class Spelling:
    """The plan's tokenizer and template."""

    def __init__(self, generation: Generation, folder: Path, where: str) -> None:
        """Raises UserError where the plan has no tokenizer, or it is missing or damaged."""
        if generation.tokenizer is None or generation.sha256 is None:
            raise UserError(
                f"{where}: the plan has no tokenizer: compile with generation.tokenizer=DIR, or give token ids"
            )
        path = folder / generation.tokenizer
        check_file(path, generation.sha256, "the tokenizer", "copy it again with the plan")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise UserError(f"{path}: not a readable tokenizer: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._generation = generation
        self._template: Any = None

    @property
    def converses(self) -> bool:
        """Whether the model has a template of conversations."""
        return self._generation.template is not None

    def prompt_tokens(self, text: str) -> list[int]:
        """Of a text to be continued."""
        return list(self._tokenizer.encode(text).ids)

    def dialogue_tokens(self, messages: Sequence[Message], where: str) -> list[int]:
        """Of a conversation whose next message is the model's.

        Raises:
            UserError: the model has no template, or it refuses these messages, or they hold half a character.
        """
        rendered = self._rendered(messages, where)
        check_whole(rendered, where, "the conversation")
        return list(self._tokenizer.encode(rendered, add_special_tokens=False).ids)

    def _rendered(self, messages: Sequence[Message], where: str) -> str:
        if self._template is None:
            self._template = self._compiled(where)
        try:
            rendered = self._template.render(
                messages=[dict(message) for message in messages], add_generation_prompt=True, tools=None,
                **self._generation.words,
            )  # fmt: skip
        except Exception as error:  # what a template raises itself, or makes of Python
            raise UserError(f"{where}: the model's template of conversations refuses the messages: {error}") from None
        return str(rendered)

    def _compiled(self, where: str) -> Any:
        from jinja2 import TemplateError, nodes
        from jinja2.exceptions import TemplateSyntaxError
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self._generation.template is None:
            raise UserError(f"{where}: the model has no template of conversations: give a prompt")

        class Generated(Extension):
            """{% generation %} marks the model's own words, for those who train it."""

            tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return nodes.Scope(body, lineno=line)

        def refuse(message: str) -> str:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generated, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = _now
        try:
            return environment.from_string(self._generation.template)
        except TemplateSyntaxError as error:
            raise UserError(f"{where}: the model's template of conversations cannot be read: {error}") from None

    def decoded(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


def _to_json(value: Any, indent: int | None = None) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)


def _now(text: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(text)


class Text:
    """The text of tokens as they come: what can still change is held back, such as half a character or a stop word."""

    def __init__(self, spelling: Spelling, stops: Sequence[str]) -> None:
        self._spelling, self._stops = spelling, [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self._done = 0
        """Tokens whose text is settled; those before it show how the next one begins."""
        self._before = 0
        self._settled = ""
        self.given = ""
        """What was given out."""
        self.stopped = False
        """Whether a stop word has come: the text ends before it."""

    def add(self, token: int) -> str:
        """The further text that this token settles; it may be empty."""
        self._tokens.append(token)
        before = self._spelling.decoded(self._tokens[self._before : self._done])
        after = self._spelling.decoded(self._tokens[self._before :])
        if after.endswith("\ufffd") and len(self._tokens) - self._done < _MOST_HELD:
            return ""
        if len(after) > len(before):
            self._settled += after[len(before) :]
            self._before, self._done = self._done, len(self._tokens)
        return self._give(last=False)

    def finish(self) -> str:
        """What was held back."""
        if not self.stopped:
            before = self._spelling.decoded(self._tokens[self._before : self._done])
            self._settled += self._spelling.decoded(self._tokens[self._before :])[len(before) :]
        return self._give(last=True)

    def _give(self, *, last: bool) -> str:
        if self.stopped:
            return ""
        found = [place for stop in self._stops if (place := self._settled.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._settled = self._settled[: min(found)]
            end = len(self._settled)
        else:
            end = len(self._settled) - (0 if last else self._held())
        more = self._settled[len(self.given) : end]
        self.given += more
        return more

    def _held(self) -> int:
        """Characters at the end that may be the beginning of a stop word."""
        most = max((len(stop) - 1 for stop in self._stops), default=0)
        for count in range(min(most, len(self._settled)), 0, -1):
            if any(stop.startswith(self._settled[-count:]) for stop in self._stops):
                return count
        return 0
