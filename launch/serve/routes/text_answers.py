"""Answers to the texts of one request, as they come in the event loop; whoever leaves frees their slots."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from time import monotonic

from edgelaunch.application.running import Running
from edgelaunch.common.failures import RankFailedError
from edgelaunch.generation.answers import TextRequest
from edgelaunch.generation.text_ends import Busy
from edgelaunch.serve.http.api_error import ApiError
from edgelaunch.serve.http.service import unavailable

__all__ = ["Piece", "TextAnswers"]

LOOK_S = 1.0
"""How often it is seen whether the pipeline still runs."""
FINISH = {"stop": "stop", "length": "length", "candidates": "length"}
"""The OpenAI API's words for why an answer ended."""


@dataclass(frozen=True)
class Piece:
    index: int
    """Of the prompt."""
    text: str
    finish: str | None = None
    """Why the answer ended, with its last piece."""


class TextAnswers:
    """Made and read in the event loop's thread."""

    def __init__(self, running: Running, requests: Sequence[TextRequest], timeout_s: float) -> None:
        """`timeout_s`: without any piece.

        Raises:
            ApiError: 429, the queue is full.
        """
        assert running.texts is not None
        self._running, self._texts, self._timeout_s = running, running.texts, timeout_s
        self._news = asyncio.Event()
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._news.set)

        self.answers = []
        try:
            for request in requests:
                self.answers.append(self._texts.ask_now(request, changed))
        except Busy as error:
            self.cancel()
            raise ApiError(429, str(error), code="queue_full", headers={"Retry-After": "1"}) from None

    @property
    def prompt_tokens(self) -> int:
        return sum(len(answer.request.prompt) for answer in self.answers)

    @property
    def tokens(self) -> int:
        return sum(len(answer.tokens) for answer in self.answers)

    async def pieces(self) -> AsyncIterator[Piece | None]:
        """Until all have ended; None now and then while nothing comes.

        Raises:
            ApiError: 503, the pipeline has ended; 504, nothing came in time.
        """
        unfinished, heard = set(range(len(self.answers))), monotonic()
        while unfinished:
            self._news.clear()
            for index in sorted(unfinished):
                answer = self.answers[index]
                finish = answer.finish  # before the text is taken: what came before the end is there
                text = answer.take()
                if finish == "cancelled":
                    raise self._ended()
                if finish is not None:
                    unfinished.discard(index)
                if text or finish is not None:
                    heard = monotonic()
                    yield Piece(index, text, None if finish is None else FINISH[finish])
            if unfinished and not await self._wait():
                self._check()
                if monotonic() - heard > self._timeout_s:
                    seconds = f"{self._timeout_s:g} s (--request-timeout)"
                    raise ApiError(504, f"nothing came within {seconds}", code="timeout")
                yield None

    def cancel(self) -> None:
        for answer in self.answers:
            if not answer.done:
                self._texts.cancel(answer)

    async def _wait(self) -> bool:
        """Whether there is news."""
        try:
            await asyncio.wait_for(self._news.wait(), LOOK_S)
        except asyncio.TimeoutError:
            return False
        return True

    def _check(self) -> None:
        try:
            self._running.check()
        except (RankFailedError, RuntimeError) as error:
            raise unavailable(error) from None

    def _ended(self) -> ApiError:
        try:
            self._running.check()
        except (RankFailedError, RuntimeError) as error:
            return unavailable(error)
        return unavailable(RuntimeError("the pipeline is closed"))
