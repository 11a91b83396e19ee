"""The calls of a Pipeline that generates text: a list of answers, or text as it comes, with and without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError, choices
from edgecompile.contract.plan import Plan
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
    """`stop`, `length` or `cancelled`."""
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

    def close(self) -> None:
        """No more requests come."""
        self._closed.set()
        if self._ends is not None:
            self._ends.close()

    def request(self, prompt: Prompt, options: TextOptions, where: str = "prompt") -> TextRequest:
        """Raises UserError where the plan does not allow it."""
        sampling = Sampling(
            temperature=options.temperature, top_p=options.top_p, repetition_penalty=options.repetition_penalty,
            top_k=usual_top_k(options.top_k, self._generation.candidates), seed=options.seed,
        )  # fmt: skip
        stops = (options.stop,) if isinstance(options.stop, str) else tuple(options.stop)
        defaults = Defaults(max_tokens=options.max_tokens, sampling=sampling, stops=stops)
        value: Any = prompt
        if not isinstance(prompt, str):
            value = [int(item) if not isinstance(item, Mapping) else item for item in prompt]
            if value and isinstance(value[0], Mapping):
                value = {"messages": value}
        request = request_from(value, where, self._generation, self._spelling, defaults)
        return replace(request, ignore_end=options.ignore_end)

    def ask(self, request: TextRequest) -> Answer:
        assert self._ends is not None, "the pipeline has not been started"
        return self._ends.ask(request, check=self._check)

    def generate(self, prompts: Sequence[Prompt], given: Mapping[str, Any]) -> list[Completion]:
        """An answer for each prompt, in their order. `given`: fields of TextOptions."""
        options = _options(given)
        if isinstance(prompts, str) or (prompts and isinstance(prompts[0], (int, Mapping))):
            raise UserError("invalid prompts: expected a list of prompts, each a text, token ids or a conversation")
        requests = [self.request(prompt, options, f"prompt {index}") for index, prompt in enumerate(prompts)]
        answers = []
        try:
            for request in requests:
                answers.append(self.ask(request))
            for answer in answers:
                answer.wait(self._check)
        except BaseException:
            for answer in answers:
                self._cancel(answer)
            raise
        return [_completion(answer) for answer in answers]

    def stream(self, prompt: Prompt, given: Mapping[str, Any]) -> Generator[str, None, None]:
        """Its text as it comes; whoever stops reading frees the slot."""
        answer = self.ask(self.request(prompt, _options(given)))
        try:
            yield from answer.pieces(self._check)
        finally:
            self._cancel(answer)

    async def stream_async(self, prompt: Prompt, given: Mapping[str, Any]) -> AsyncIterator[str]:
        """The same for asyncio; other tasks run meanwhile."""
        pieces = self.stream(prompt, given)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            await asyncio.to_thread(pieces.close)

    def _cancel(self, answer: Answer) -> None:
        if self._ends is not None and not answer.done:
            self._ends.cancel(answer)


def _options(given: Mapping[str, Any]) -> TextOptions:
    known = [item.name for item in fields(TextOptions)]
    for name in given:
        if name not in known:
            raise UserError(f"generate has no option {name!r}: it has {choices(known, name)}")
    return TextOptions(**given)


def _completion(answer: Answer) -> Completion:
    return Completion(text=answer.text, tokens=tuple(answer.tokens), finish=answer.finish or "cancelled",
                      prompt_tokens=len(answer.request.prompt))  # fmt: skip


def _wait(closed: threading.Event) -> None:
    while not closed.wait(0.5):
        pass
