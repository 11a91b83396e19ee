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
_STEP, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


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

    Of the candidates that the penalty put behind the last one none is chosen: top_k and top_p are then of fewer tokens
    than transformers would draw from, and each of those is one that it would.

    Args:
        scores: of the most likely tokens, the largest first.
        ids: the tokens themselves.
        before: the tokens of the sequence.
        position: makes the draw depend on the seed and the place alone.
        whole: whether the candidates are all tokens that there are.
    """
    if sampling.temperature == 0.0 and sampling.repetition_penalty == 1.0 and len(scores) > 1 and scores[0] > scores[1]:
        return int(ids[0])  # as below, in a tenth of the time
    values = scores.astype(np.float64)
    if sampling.repetition_penalty != 1.0:
        seen = np.isin(ids, np.fromiter(before, dtype=np.int64, count=len(before)))
        penalty = sampling.repetition_penalty
        less = np.where(values > 0, values / penalty, values * penalty)
        values = np.where(seen, less, values)
        if not whole:
            known = values >= scores[-1]  # what is behind may be less likely than a token that was not sent
            if not known.any():
                return None
            values, ids = values[known], ids[known]
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
        order, ordered = order[before_it < sampling.top_p], ordered[before_it < sampling.top_p]
    # The Gumbel-max trick: each token's own noise is added to its score, and the largest sum wins. Scores that rounding
    # changed change the draw only where the two largest sums are as close; a place in the shares' running sum, as of a
    # search, would depend on the order of all tokens before it, and on what top_p leaves out.
    drawn = ordered - np.log(-np.log(_uniform(sampling.seed, position, ids[order])))
    return int(ids[order[int(np.argmax(drawn))]])


def _uniform(seed: int, position: int, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """More than 0 and less than 1, for each token its own, the same on every machine.

    Reference: the output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
    OOPSLA 2014), applied to the seed, the position and the token in turn.
    """
    mixed = np.zeros(len(ids), dtype=np.uint64)
    for part in (np.uint64(seed % (1 << 64)), np.uint64(position), ids.astype(np.uint64)):
        mixed = (mixed ^ part) + _STEP
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
        mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
