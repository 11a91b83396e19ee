"""Texts that transformers' generate() makes of a few prompts, and what the shards make of the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from edgecompile.contract.closed_sets import Cache
from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import GeneratedText, StateSpec, state_within
from edgecompile.execution.attention import bound
from edgecompile.execution.slot_state import SlotState, slot_value
from edgecompile.models.causal_step import FAR, CausalStep

__all__ = ["NUM_TOKENS", "Comparison", "Divergence", "RunStage", "check_steps", "compare_texts", "divergence",
           "golden_texts", "scores_through"]  # fmt: skip

NUM_TOKENS = 32
_FEW = 3
"""Tokens of an answer that tell whether steps follow the model."""

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class RunStage:
    """A stage as the compiler runs it."""

    run: Callable[..., Sequence[torch.Tensor]]
    units: tuple[int, int]
    places: tuple[int, int]
    """Of its inputs: the slots, the positions."""


def golden_texts(step: CausalStep, vocabulary: int, chunk: int, seed: int) -> tuple[GeneratedText, ...]:
    """Four prompts of unlike lengths, one longer than a chunk and one that fills the context with its answer."""
    generator = torch.Generator().manual_seed(seed)
    context = step.context
    num = max(1, min(NUM_TOKENS, context // 2))
    found = []
    for wanted in (5, chunk + 7, 1, context - num):
        length = max(1, min(wanted, context - num))
        prompt = torch.randint(0, vocabulary, (1, length), generator=generator)
        tokens = step.generated(prompt, num)
        found.append(GeneratedText(prompt=tuple(prompt[0].tolist()), tokens=tuple(tokens)))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of the next token's distribution at every golden token, given the same text before it."""

    num_tokens: int
    num_equal: int
    mean_divergence: float
    """Kullback-Leibler, in nats, from the model in float32."""
    worst_divergence: float


def check_steps(step: CausalStep, texts: Sequence[GeneratedText], state: Sequence[StateSpec], chunk: int) -> None:
    """The model itself, all in float32, in chunks of the prompts and single tokens: where shards round, what they score
    otherwise does not tell of it.

    Raises:
        UserError: it scores the texts otherwise than transformers does.
    """

    def run(*inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        found = step(*inputs)
        return found["logits"], found["slots"]

    exact = [replace(spec, dtype=Cache.FP32.value) for spec in state]
    whole = RunStage(run=run, units=(0, max((spec.unit for spec in state), default=0)), places=(2, 1))
    for number, text in enumerate(texts):
        few = replace(text, tokens=text.tokens[:_FEW])
        (scores,) = scores_through([few], [whole], exact, step.context, chunk)
        wanted = step.scores_of((*few.prompt, *few.tokens[:-1]), len(few.tokens))
        far = divergence(wanted, scores).far
        if far > FAR:
            raise UserError(
                f"{type(step.model).__name__}: in chunks of {chunk} tokens it scores golden text {number}, of "
                f"{len(text.prompt)} tokens and more, otherwise than transformers scores it as a whole, by {far:.1g} "
                "of the largest score: it cannot generate text step by step here"
            )


def compare_texts(
    step: CausalStep, texts: Sequence[GeneratedText], stages: Sequence[RunStage], state: Sequence[StateSpec],
    chunk: int, rows: int, *, rounded: bool,
) -> Comparison:  # fmt: skip
    """Runs the texts through the shards, prompts chunk by chunk, then all rows together at unlike positions.

    Args:
        rows: of a message at most.
        rounded: another precision than float32: other tokens are counted, not refused.

    Raises:
        UserError: the shards choose another token than the model, or score it otherwise, which is not due to rounding;
            or transformers' generate() itself does.
    """
    rows = min(rows, len(texts))
    equal, total, nats = 0, 0, list[torch.Tensor]()
    for begin in range(0, len(texts), rows):
        part = texts[begin : begin + rows]
        scores = scores_through(part, stages, state, step.context, chunk)
        for index, text in enumerate(part):
            wanted = step.scores_of((*text.prompt, *text.tokens[:-1]), len(text.tokens))
            _check_agreement(step, text, begin + index, wanted)
            given = scores[index]
            total += len(text.tokens)
            found = divergence(wanted, given)
            equal += found.num_equal
            if not rounded and not bool(found.same.all()):
                place = int((~found.same).nonzero()[0])
                raise UserError(
                    f"the shards generate another text than transformers' generate(): of golden prompt {begin + index} "
                    f"token {place} is {int(given[place].argmax())}, not {text.tokens[place]}; this is a bug of "
                    "edgecompile: please report it"
                )
            if not rounded and found.far > FAR:
                raise UserError(
                    f"the shards score the tokens of golden prompt {begin + index} otherwise than the model, by "
                    f"{found.far:.1g} of the largest score; this is a bug of edgecompile: please report it"
                )
            nats.append(found.nats)
    joined = torch.cat(nats)
    return Comparison(num_tokens=total, num_equal=equal, mean_divergence=float(joined.mean()),
                      worst_divergence=float(joined.max()))  # fmt: skip


def _check_agreement(step: CausalStep, text: GeneratedText, number: int, wanted: torch.Tensor) -> None:
    """Raises UserError where transformers' generate() chose a token that the model, run over the text at once, scores
    lower than another one: which of them is right, nobody can tell."""
    chosen = wanted.gather(-1, torch.tensor(text.tokens).unsqueeze(-1)).squeeze(-1)
    lower = wanted.max(-1).values - chosen > FAR * wanted.abs().max()
    if bool(lower.any()):
        raise UserError(
            f"{type(step.model).__name__}: transformers' generate() continues golden text {number}, of "
            f"{len(text.prompt)} tokens and more, otherwise than the model scores it at once, from token "
            f"{int(lower.nonzero()[0])} of its answer on: it keeps less of a text than it sees, such as the tokens of "
            "a window that its mask does not have; try a smaller generation.context"
        )


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Of what is computed of each next token from what is right, (tokens,)."""

    nats: torch.Tensor
    """Kullback-Leibler."""
    same: torch.Tensor
    """Whether the most likely token stays so, but for rounding."""
    far: float
    """The largest difference of scores, over the largest score."""

    @property
    def num_equal(self) -> int:
        return int(self.same.sum())


def divergence(wanted: torch.Tensor, given: torch.Tensor) -> Divergence:
    """Of scores (tokens, vocabulary)."""
    lead = wanted.max(-1).values - wanted.gather(-1, given.argmax(-1, keepdim=True)).squeeze(-1)
    logs, own = wanted.double().log_softmax(-1), given.double().log_softmax(-1)
    nats = (logs.exp() * (logs - own)).sum(-1).clamp(min=0)
    most = wanted.abs().max()
    return Divergence(nats=nats, same=lead <= FAR * most, far=float((given - wanted).abs().max() / most))


def scores_through(
    texts: Sequence[GeneratedText], stages: Sequence[RunStage], state: Sequence[StateSpec], context: int, chunk: int
) -> list[torch.Tensor]:
    """For each text the scores of its tokens: (tokens, vocabulary)."""
    count = len(texts)
    states = [SlotState(state_within(state, stage.units), count, context) for stage in stages]
    scores: list[list[torch.Tensor]] = [[] for _ in texts]
    whole = [(*text.prompt, *text.tokens) for text in texts]

    def run(rows: Sequence[int], starts: Sequence[int], width: int) -> torch.Tensor:
        ids = torch.tensor([whole[row][start : start + width] for row, start in zip(rows, starts, strict=True)])
        positions = torch.tensor([list(range(start, start + width)) for start in starts])
        slots = torch.tensor([slot_value(1, row, count) for row in rows])
        tensors: Sequence[torch.Tensor] = (ids, positions, slots)
        for stage, kept in zip(stages, states, strict=True):
            own, places = (tensors[place] if place >= 0 else None for place in stage.places)
            if own is None or places is None:
                tensors = stage.run(*tensors)
                continue
            with bound(kept.step(own, places)):
                tensors = stage.run(*tensors)
        return tensors[0]

    with torch.inference_mode():
        for row, text in enumerate(texts):
            for start in range(0, len(text.prompt), chunk):
                width = min(chunk, len(text.prompt) - start)
                last = run([row], [start], width)
            scores[row].append(last[0].clone())
        for place in range(1, max(len(text.tokens) for text in texts)):
            rows = [row for row, text in enumerate(texts) if place < len(text.tokens)]
            found = run(rows, [len(texts[row].prompt) + place - 1 for row in rows], 1)
            for index, row in enumerate(rows):
                scores[row].append(found[index].clone())
    return [torch.stack(item) for item in scores]
