"""Counts the requests that have ended, in memory that does not grow with them."""

from __future__ import annotations

import threading
from collections import deque

from edgecompile.contract.generation import Generation
from edgecompile.contract.run_record import RequestRecord, TextRecord
from edgelaunch.generation.answers import Answer
from edgelaunch.transport.counters import Latencies

__all__ = ["TextTally"]

TRACED = 1024
"""The last requests whose times are kept."""


class TextTally:
    """Filled and read by any thread. What only checks a plan is left out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = self.cancelled = self.prompt_tokens = self.tokens = self.rebuilt = 0
        """Tokens of the requests that came to one at least."""
        self.first_token, self.first_token_alone, self.token = Latencies(), Latencies(), Latencies()
        """From asking to the first token; the same without the wait for a slot; between two tokens of an answer."""
        self.prompt_token = Latencies()
        """From its slot to its first token, over the tokens of the prompt."""
        self.first_ns = self.last_ns = 0
        """The first token of all, and the last."""
        self._trace: deque[RequestRecord] = deque(maxlen=TRACED)

    def add(self, answer: Answer) -> None:
        if answer.request.keep_scores:
            return
        with self._lock:
            self.requests += 1
            self.cancelled += answer.finish == "cancelled"
            if answer.first_ns:
                self._add_times(answer)

    def _add_times(self, answer: Answer) -> None:
        prompt, tokens = len(answer.request.prompt), len(answer.tokens)
        self.prompt_tokens += prompt
        self.tokens += tokens
        self.rebuilt += answer.rebuilt
        alone_ns = answer.first_ns - answer.begun_ns
        self.first_token.add(answer.first_ns - answer.asked_ns)
        self.first_token_alone.add(alone_ns)
        self.prompt_token.add(alone_ns // prompt)
        if tokens > 1:
            self.token.add((answer.last_ns - answer.first_ns) // (tokens - 1))
        self.first_ns = min(self.first_ns, answer.first_ns) if self.first_ns else answer.first_ns
        self.last_ns = max(self.last_ns, answer.last_ns)
        self._trace.append(RequestRecord(
            slot=answer.slot, begun_ns=answer.begun_ns, first_ns=answer.first_ns, last_ns=answer.last_ns,
            prompt_tokens=prompt, tokens=tokens, rebuilt=answer.rebuilt,
        ))  # fmt: skip

    def record(self, generation: Generation, machine: str) -> TextRecord:
        """For the run's record. `machine`: the data host's, as of a stage."""
        with self._lock:
            return TextRecord(
                machine=machine, requests=self.requests, cancelled=self.cancelled, prompt_tokens=self.prompt_tokens,
                tokens=self.tokens, rebuilt=self.rebuilt, first_token=self.first_token.summary(),
                first_token_alone=self.first_token_alone.summary(), token=self.token.summary(),
                predicted_first_token_s=generation.predicted.first_token_s,
                predicted_token_s=generation.predicted.token_s, trace=tuple(self._trace),
            )  # fmt: skip
