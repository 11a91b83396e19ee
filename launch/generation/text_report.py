"""Tells what a run of text generation measured, beside what the plan predicted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from edgecompile.contract.generation import Generation
from edgecompile.contract.quantities import format_count, format_number, format_time
from edgelaunch.generation.answers import Answer
from edgelaunch.generation.text_tally import TextTally
from edgelaunch.transport.counters import Latencies

__all__ = ["TextFigures", "figures_of", "figures_of_all", "lines_of"]


@dataclass(frozen=True, kw_only=True)
class TextFigures:
    """Seconds and tokens a second; None where too little came to tell."""

    requests: int
    prompt_tokens: int
    tokens: int
    first_token_s: float | None
    """The median of the time from asking to the first token."""
    first_token_alone_s: float | None
    """The same without the wait for a slot."""
    token_s: float | None
    """The median of the time between two tokens of an answer."""
    tokens_per_s: float | None
    """Of all answers together, from the first token to the last."""
    prompt_tokens_per_s: float | None
    """Of a prompt: its tokens over the time from its slot to its first token, the median."""
    rebuilt: int
    """Sequences whose state was made again."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def figures_of(answers: Iterable[Answer]) -> TextFigures:
    tally = TextTally()
    for answer in answers:
        tally.add(answer)
    return figures_of_all(tally)


def figures_of_all(tally: TextTally) -> TextFigures:
    """Of all requests that have ended."""
    after_first, between_ns = tally.tokens - 1, tally.last_ns - tally.first_ns
    prompt_token_s = _median_s(tally.prompt_token)
    return TextFigures(
        requests=tally.requests, prompt_tokens=tally.prompt_tokens, tokens=tally.tokens,
        first_token_s=_median_s(tally.first_token), first_token_alone_s=_median_s(tally.first_token_alone),
        token_s=_median_s(tally.token),
        tokens_per_s=after_first / (between_ns / 1e9) if after_first > 0 and between_ns > 0 else None,
        prompt_tokens_per_s=1 / prompt_token_s if prompt_token_s else None, rebuilt=tally.rebuilt,
    )  # fmt: skip


def _median_s(times: Latencies) -> float | None:
    return times.percentile_s(50) if times.count else None


def lines_of(figures: TextFigures, generation: Generation) -> list[str]:
    """For people: each figure with what the plan predicts."""
    told, predicted = figures, generation.predicted
    lines = [
        f"{format_count(told.requests)} request{'s' if told.requests != 1 else ''}: {format_count(told.prompt_tokens)} "
        f"tokens of prompts, {format_count(told.tokens)} generated"
    ]
    if told.first_token_s is not None:
        waited = ""
        if told.first_token_alone_s is not None and told.first_token_s > 1.05 * told.first_token_alone_s:
            waited = f" ({format_time(told.first_token_alone_s)} from its slot on)"
        lines.append(
            f"first token: {format_time(told.first_token_s)}{waited}; predicted {format_time(predicted.first_token_s)} "
            f"for a prompt of {generation.prompt} tokens alone"
        )
    if told.prompt_tokens_per_s is not None:
        lines.append(
            f"prompts: {format_number(told.prompt_tokens_per_s, 3)} tokens/s; predicted "
            f"{format_number(predicted.prompt_tokens_per_s, 3)} for a long one alone"
        )
    if told.token_s is not None:
        lines.append(
            f"a token: {format_time(told.token_s)} in one answer; predicted {format_time(predicted.token_s)} for one "
            "stream alone"
        )
    if told.tokens_per_s is not None:
        lines.append(
            f"all answers: {format_number(told.tokens_per_s, 3)} tokens/s; predicted "
            f"{format_number(predicted.tokens_per_s, 3)} while {generation.slots} streams generate"
        )
    if told.rebuilt:
        lines.append(f"{told.rebuilt} time{'s' if told.rebuilt > 1 else ''} a lost state was made again, and no token")
    return lines
