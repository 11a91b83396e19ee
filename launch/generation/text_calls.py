"""The calls of a Pipeline that generates text: a list of answers, or text as it comes, with and without asyncio."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError, choices
from edgecompile.contract.plan import Plan
from edgecompile.contract.run_record import TextRecord
from edgelaunch.generation.answers import Answer, TextRequest
from edgelaunch.generation.dialogue import Spelling
from edgelaunch.generation.prompt_lines import Defaults, request_from
from edgelaunch.generation.text_ends import TextEnds
from edgelaunch.generation.token_choice import Sampling, usual_top_k

__all__ = ["Completion", "Prompt", "TextCalls", "TextOptions"]

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""A text to be continued, its token ids, or a conversation of {role, content}."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer."""

    text: str
    """Empty where the plan has no tokenizer."""
    tokens: tuple[int, ...]
    """Those that were generated, without one that ends the text."""
    finish: str
    """`stop`, `length`, `cancelled` or `candidates`: see Answer."""
    prompt_tokens: int


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How an answer is generated."""

    max_tokens: int = 256
    temperature: float = 0.0
    """0: always the most likely token."""
    top_k: int | None = None
    """None: 50, or as many candidates as the plan keeps."""
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: str | Sequence[str] = ()
    ignore_end: bool = False
    """Whether tokens that end a text count as any other."""


class _Gone(Exception):
    """The task that read the text was cancelled."""


class TextCalls:
    """Any number of threads and tasks may call at once: their requests share the slots."""

    def __init__(self, plan: Plan, folder: Path, check: Callable[[], None]) -> None:
        """`check` is called now and then while a caller waits, and may raise."""
        assert plan.generation is not None
        self._generation, self._check = plan.generation, check
        has = plan.generation.tokenizer is not None
        self._spelling = Spelling(plan.generation, folder, "generate") if has else None
        self._closed = threading.Event()
        self._ends: TextEnds | None = None
        self._folder = folder

    def ends(self, plan: Plan) -> TextEnds:
        self._ends = TextEnds(plan, self._folder, lambda ends: _wait(self._closed), spelling=self._spelling)
        return self._ends

    def record(self, machine: str) -> TextRecord | None:
        """Of the requests that have ended, for the run's record; None: there were none. `machine`: the data host's."""
        if self._ends is None or not self._ends.tally.requests:
            return None
        return self._ends.tally.record(self._generation, machine)

    @property
    def spelling(self) -> Spelling | None:
        """The plan's tokenizer; None: answers have no text."""
        return self._spelling

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer have together at most."""
        return self._generation.context

    def close(self) -> None:
        """No more requests come."""
        self._closed.set()
        if self._ends is not None:
            self._ends.close()

    def request(self, prompt: Prompt, options: TextOptions, where: str = "prompt") -> TextRequest:
        """Raises UserError where the plan does not allow it."""
        given = {item.name: _plain(getattr(options, item.name)) for item in fields(TextOptions)}
        given["stop"] = list(options.stop) if isinstance(options.stop, tuple) else options.stop
        defaults = Defaults(
            max_tokens=TextOptions.max_tokens,
            sampling=Sampling(top_k=usual_top_k(None, self._generation.candidates)),
        )
        return request_from(_content(prompt, where) | given, where, self._generation, self._spelling, defaults)

    def ask(self, request: TextRequest, check: Callable[[], None] | None = None) -> Answer:
        assert self._ends is not None, "the pipeline has not been started"
        return self._ends.ask(request, check=check or self._check)

    def ask_now(self, request: TextRequest, changed: Callable[[], None]) -> Answer:
        """As ask, without waiting for a place in the queue; `changed` is told of each piece, as of Answer.

        Raises:
            Busy: the queue is full.
        """
        assert self._ends is not None, "the pipeline has not been started"
        return self._ends.ask(request, wait=False, changed=changed)

    def generate(
        self, prompts: Sequence[Prompt], given: Mapping[str, Any], check: Callable[[], None] | None = None
    ) -> list[Completion]:
        """An answer for each prompt, in their order. `given`: fields of TextOptions; `check`: as of the calls."""
        check = check or self._check
        options = _options(given)
        requests = [self.request(prompt, options, f"prompt {index}") for index, prompt in enumerate(_listed(prompts))]
        answers = []
        try:
            for request in requests:
                answers.append(self.ask(request, check))
            for answer in answers:
                answer.wait(check)
                _check_whole(answer, check)
        except BaseException:
            for answer in answers:
                self.cancel(answer)
            raise
        return [_completion(answer) for answer in answers]

    def stream(self, prompt: Prompt, given: Mapping[str, Any]) -> Generator[str, None, None]:
        """Its text as it comes; whoever stops reading frees the slot."""
        yield from self._pieces(prompt, given, self._check)

    def _pieces(
        self, prompt: Prompt, given: Mapping[str, Any], check: Callable[[], None]
    ) -> Generator[str, None, None]:  # fmt: skip
        if self._spelling is None:
            raise UserError("prompt: the plan has no tokenizer, so that an answer has no text: call generate(), which "
                            "gives its tokens, or compile with generation.tokenizer=DIR")  # fmt: skip
        answer = self.ask(self.request(prompt, _options(given)), check)
        try:
            yield from answer.pieces(check)
            _check_whole(answer, check)
        finally:
            self.cancel(answer)

    async def stream_async(self, prompt: Prompt, given: Mapping[str, Any]) -> AsyncIterator[str]:
        """The same for asyncio; other tasks run meanwhile. A task that is cancelled frees the slot."""
        gone, turn = threading.Event(), threading.Lock()

        def check() -> None:
            if gone.is_set():
                raise _Gone
            self._check()

        def following() -> str | None:
            with turn:
                return next(pieces, None)

        def close() -> None:
            with turn:  # a thread that waits for the next piece goes on when its task is cancelled, until it checks
                pieces.close()

        pieces = self._pieces(prompt, given, check)
        try:
            while (piece := await asyncio.to_thread(following)) is not None:
                yield piece
        finally:
            gone.set()
            await asyncio.to_thread(close)

    def cancel(self, answer: Answer) -> None:
        """Whoever asked has gone: its slot is free at once."""
        if self._ends is not None and not answer.done:
            self._ends.cancel(answer)


def _check_whole(answer: Answer, check: Callable[[], None]) -> None:
    """Raises where the pipeline has ended it: whoever asked has not."""
    if answer.finish == "cancelled":
        check()
        raise RuntimeError("the pipeline is closed")


def _options(given: Mapping[str, Any]) -> TextOptions:
    known = [item.name for item in fields(TextOptions)]
    for name in given:
        if name not in known:
            raise UserError(f"generate has no option {name!r}: it has {choices(known, name)}")
    return TextOptions(**given)


def _listed(prompts: Any) -> list[Any]:
    listed = None if isinstance(prompts, (str, bytes, Mapping)) else _items(prompts)
    if listed is None or (listed and (isinstance(listed[0], Mapping) or isinstance(_plain(listed[0]), (int, float)))):
        raise UserError("invalid prompts: expected a list of prompts, each a text, token ids or a conversation")
    return listed


def _content(prompt: Any, where: str) -> dict[str, Any]:
    """As a line of a .jsonl file has it."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    items = None if isinstance(prompt, (bytes, bytearray, Mapping)) else _items(prompt)
    if items is None:
        raise UserError(
            f"{where}: invalid prompt of type {type(prompt).__name__}: expected a text, a list of token ids or a "
            "conversation"
        )
    if items and isinstance(items[0], Mapping):
        return {"messages": items}
    return {"tokens": [_plain(item) for item in items]}


def _items(value: Any) -> list[Any] | None:
    """Of a list, an array or whatever can be iterated; None: it cannot."""
    try:
        return list(value)
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    """A number of numpy or torch as Python's own, and anything else as it is: whoever checks it says what is wrong."""
    if isinstance(value, (bool, float, str)):
        return value
    for number in (operator.index, float) if isinstance(value, Real) else (operator.index,):
        try:
            return number(value)
        except (TypeError, ValueError):
            continue
    return value


def _completion(answer: Answer) -> Completion:
    return Completion(text=answer.text, tokens=tuple(answer.tokens), finish=answer.finish or "cancelled",
                      prompt_tokens=len(answer.request.prompt))  # fmt: skip


def _wait(closed: threading.Event) -> None:
    while not closed.wait(0.5):
        pass
