"""A request for text, and its answer as it comes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt

from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import Generation
from edgelaunch.generation.token_choice import Sampling

__all__ = ["Answer", "TextRequest", "TooLong"]

POLL_S = 0.1


class TooLong(UserError):
    """The context does not hold the prompt."""


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    prompt: tuple[int, ...]
    """Token ids; one at least."""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int
    stops: tuple[str, ...] = ()
    """The text ends before the first of them."""
    ignore_end: bool = False
    """Whether tokens that end a text count as any other."""
    keep_scores: bool = False
    """Whether the answer is to hold the candidates of its first token, and their scores."""

    def check(self, generation: Generation, where: str = "") -> None:
        """Raises UserError where the plan does not allow it."""
        start = f"{where}: " if where else ""
        self.sampling.check(generation.candidates, where)
        if not self.prompt:
            raise UserError(f"{start}the prompt is empty: give a text of one token or more")
        if self.max_tokens < 1:
            raise UserError(f"{start}invalid value {self.max_tokens} for max_tokens: expected 1 or more")
        wrong = next((token for token in self.prompt if not 0 <= token < generation.vocabulary), None)
        if wrong is not None:
            raise UserError(f"{start}token {wrong} is none of the model's {generation.vocabulary}")
        if len(self.prompt) >= generation.context:
            raise TooLong(
                f"{start}the prompt has {len(self.prompt)} tokens, and the context {generation.context}, of which the "
                "answer needs one at least: shorten it, or compile with a larger generation.context"
            )


class Answer:
    """Filled by the data host's threads, read by whoever asked."""

    def __init__(
        self, request: TextRequest, ended: Callable[[Answer], None] = lambda answer: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`ended` is told once, `changed` of each piece and of the end, in a thread that must not wait."""
        self.request, self._ended, self._told = request, ended, changed
        self.tokens: list[int] = []
        """Those that were generated; a token that ends the text is not among them."""
        self.text = ""
        self.finish: str | None = None
        """`stop`: a token or a word that ends it; `length`: max_tokens or the context is reached; `cancelled`;
        `candidates`: the repetition penalty has put all candidates behind tokens that the plan does not keep."""
        self.asked_ns = perf_counter_ns()
        self.slot = -1
        self.begun_ns = self.first_ns = self.last_ns = 0
        """When it got a slot; when its first and its last token came."""
        self.scores: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None = None
        """Of its first token's candidates, and these, where they were asked for."""
        self.rebuilt = 0
        """How often its state was made again."""
        self._changed = threading.Condition()
        self._pieces: deque[str] = deque()

    @property
    def done(self) -> bool:
        return self.finish is not None

    def give(self, piece: str) -> None:
        """Further text."""
        with self._changed:
            self.text += piece
            if piece:
                self._pieces.append(piece)
            self._changed.notify_all()
        if piece:
            self._told()

    def end(self, finish: str) -> None:
        with self._changed:
            if self.finish is not None:
                return
            self.finish = finish
            self._changed.notify_all()
        self._ended(self)
        self._told()

    def take(self) -> str:
        """The text that came since the last call, without waiting."""
        with self._changed:
            text = "".join(self._pieces)
            self._pieces.clear()
        return text

    def pieces(self, check: Callable[[], None] = lambda: None) -> Iterator[str]:
        """The text as it comes. `check` is called at each piece, and now and then; it may raise. What has come to its
        end is given without."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self.done, POLL_S)
                piece = self._pieces.popleft() if self._pieces else None
                over = self.done
            if not over:
                check()
            if piece is not None:
                yield piece
            elif over:
                return

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        for _ in self.pieces(check):
            pass

    @property
    def first_token_s(self) -> float:
        """From asking to the first token."""
        return (self.first_ns - self.asked_ns) / 1e9

    @property
    def token_s(self) -> float | None:
        """Between two tokens, on average; None of fewer than two."""
        return (self.last_ns - self.first_ns) / 1e9 / (len(self.tokens) - 1) if len(self.tokens) > 1 else None
