"""Chooses the next token among the most likely ones: by request, seed and place alone, whatever was disturbed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgecompile.contract.errors import UserError

__all__ = ["Sampling", "choose", "usual_top_k"]

MOST_TEMPERATURE, MOST_PENALTY = 100.0, 100.0
MOST_SEED = 1 << 63
_LEAST = 1e-30
"""What is less than this acts as this, so that scores that are divided by it stay finite."""


USUAL_TOP_K = 50


def usual_top_k(given: int | None, candidates: int) -> int:
    """What was asked for; else as transformers has it, where the plan keeps so many candidates."""
    return min(USUAL_TOP_K, candidates) if given is None else given


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """As transformers has it: the penalty, then the temperature, then top_k, then top_p."""

    temperature: float = 0.0
    """0: the most likely token."""
    top_k: int = USUAL_TOP_K
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def check(self, candidates: int, where: str = "") -> None:
        """Raises UserError for a value that is not allowed. `candidates`: the plan's."""
        start = f"{where}: " if where else ""
        for name, value, least, most in (
            ("temperature", self.temperature, 0.0, MOST_TEMPERATURE), ("top_p", self.top_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 1.0, MOST_PENALTY),
            ("top_k", self.top_k, 1, candidates), ("seed", self.seed, -MOST_SEED, MOST_SEED - 1),
        ):  # fmt: skip
            exclusive = name == "top_p"
            if not least <= value <= most or (exclusive and value == 0):
                over = "more than 0" if exclusive else f"{least:g} or more"
                fix = " (the plan keeps as many candidates: generation.candidates)" if name == "top_k" else ""
                raise UserError(f"{start}invalid value {value!r} for {name}: expected {over}, at most {most:g}{fix}")


def choose(
    scores: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], sampling: Sampling, before: Collection[int],
    position: int, whole: bool = True,
) -> int | None:  # fmt: skip
    """The token at a position of a sequence; None: after the penalty another than the candidates may be likelier.

    Args:
        scores: of the most likely tokens, the largest first.
        ids: the tokens themselves.
        before: the tokens of the sequence.
        position: makes the draw depend on the seed and the place alone.
        whole: whether the candidates are all tokens that there are.
    """
    values = scores.astype(np.float64)
    if sampling.repetition_penalty != 1.0:
        seen = np.isin(ids, np.fromiter(before, dtype=np.int64, count=len(before)))
        penalty = sampling.repetition_penalty
        less = np.where(values > 0, values / penalty, values * penalty)
        values = np.where(seen, less, values)
        if not whole and values.max() < scores[-1]:
            return None
    if sampling.temperature == 0.0:
        best = int(np.argmax(values))
        equal = ids[values == values[best]]  # none where it is NaN
        return int(equal.min() if equal.size else ids[best])
    order = np.argsort(-values, kind="stable")[: sampling.top_k]
    ordered = values[order] / max(sampling.temperature, _LEAST)
    shares = np.exp(ordered - ordered[0])
    shares /= shares.sum()
    if sampling.top_p < 1.0:
        before_it = np.cumsum(shares) - shares
        shares = np.where(before_it < sampling.top_p, shares, 0.0)
        shares /= shares.sum()
    generator = np.random.Generator(np.random.Philox(key=sampling.seed % (1 << 64), counter=position))
    place = int(np.searchsorted(np.cumsum(shares), generator.random(), side="right"))
    last = int(np.flatnonzero(shares)[-1])
    return int(ids[order[min(place, last)]])
