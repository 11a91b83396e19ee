"""Measures how well a language model foretells a text, as it is and as the shards compute it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from math import exp, isfinite
from pathlib import Path

import torch

from edgecompile.contract.generation import GeneratedText, Perplexity, StateSpec
from edgecompile.generation.english_text import ENGLISH, WHAT
from edgecompile.generation.golden_texts import Divergence, RunStage, divergence, scores_through
from edgecompile.models.causal_step import CausalStep

__all__ = ["measured_perplexity", "windows_of"]

_TOKENS = 128
"""Of a window at most: each is a step of the shards, for all windows of a message at once."""
_WINDOWS = 4
_DIGITS = 6


def windows_of(tokenizer: Path, context: int, rows: int) -> tuple[GeneratedText, ...]:
    """The text in pieces, each behind what the tokenizer puts before any; its first token is given, the others scored.

    Args:
        context: the tokens that a piece may have, with those before it.
        rows: of a message; with one or two pieces are fewer, since they are computed one after another.
    """
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(tokenizer)).encode(ENGLISH)
    marked = list(zip(encoded.ids, encoded.special_tokens_mask, strict=True))
    first = tuple(number for number, _ in takewhile(lambda item: item[1], marked))
    ids = [number for number, special in marked if not special]
    room = min(_TOKENS, context - len(first))
    pieces = [ids[start : start + room] for start in range(0, len(ids), room)][: min(_WINDOWS, 2 * rows)]
    return tuple(
        GeneratedText(prompt=(*first, piece[0]), tokens=tuple(piece[1:])) for piece in pieces if len(piece) > 1
    )


def measured_perplexity(
    step: CausalStep, windows: Sequence[GeneratedText], stages: Sequence[RunStage], state: Sequence[StateSpec],
    chunk: int, rows: int, *, rounded: bool,
) -> Perplexity | None:  # fmt: skip
    """None where a figure is not finite.

    Args:
        rows: of a message at most.
        rounded: whether the shards compute something else than the model.
    """
    own, planned, found = list[torch.Tensor](), list[torch.Tensor](), list[Divergence]()
    for begin in range(0, len(windows), rows):
        part = windows[begin : begin + rows]
        scores = scores_through(part, stages, state, step.context, chunk) if rounded else []
        for index, text in enumerate(part):
            wanted = step.scores_of((*text.prompt, *text.tokens[:-1]), len(text.tokens))
            own.append(_surprise(wanted, text))
            if rounded:
                planned.append(_surprise(scores[index], text))
                found.append(divergence(wanted, scores[index]))
    figures = [_perplexity(values) for values in (own, planned) if values]
    if not all(map(isfinite, figures)):
        return None
    count = sum(len(text.tokens) for text in windows)
    if not rounded:
        return Perplexity(text=WHAT, tokens=count, model=figures[0])
    nats = torch.cat([item.nats for item in found])
    if not bool(nats.isfinite().all()):
        return None
    return Perplexity(
        text=WHAT, tokens=count, model=figures[0], plan=figures[1], mean_divergence=_short(float(nats.mean())),
        worst_divergence=_short(float(nats.max())), same=_short(sum(item.num_equal for item in found) / count),
    )  # fmt: skip


def _surprise(scores: torch.Tensor, text: GeneratedText) -> torch.Tensor:
    """In nats, of each of the text's tokens."""
    logs = scores.double().log_softmax(-1)
    return -logs.gather(-1, torch.tensor(text.tokens).unsqueeze(-1)).squeeze(-1)


def _perplexity(surprises: Sequence[torch.Tensor]) -> float:
    mean = float(torch.cat(list(surprises)).mean())
    return _short(exp(mean)) if mean < 700 else float("inf")


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
