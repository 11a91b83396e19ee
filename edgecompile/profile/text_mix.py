"""The messages that generating text becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from edgecompile.config.generation_request import GenerationRequest
from edgecompile.config.methods import TextObjective
from edgecompile.contract.plan import Dim
from edgecompile.contract.text_rules import TOKENS
from edgecompile.profile.mix import Mix

__all__ = ["chunk_starts", "decoding_rows", "mix_of_kinds", "text_mix"]


def decoding_rows(slots: int, stages: int) -> int:
    """Rows of a decode step where all slots generate, and each stage has a group of them to work on."""
    return ceil(slots / min(stages, slots))


def text_mix(asked: GenerationRequest, dims: Mapping[str, Dim], stages: int) -> Mix:
    """The messages of requests as the generation option expects them, all slots being in use.

    Args:
        stages: at most so many, each with a group of slots to work on.
    """
    if asked.objective is TextObjective.TOKEN_LATENCY:
        return mix_of_kinds("one stream's tokens", dims, [(1, 1)])
    if asked.objective is TextObjective.FIRST_TOKEN:
        chunks = chunk_starts(asked.prompt, asked.chunk)
        kinds = [(1, min(asked.chunk, asked.prompt))]
        return mix_of_kinds(f"a prompt of {asked.prompt} tokens", dims, kinds, chunks)
    rows = decoding_rows(asked.slots, stages)
    whole, rest = divmod(asked.prompt, asked.chunk)
    prompts = [(1, asked.chunk)] * whole + [(1, rest)] * bool(rest)
    source = f"{asked.slots} streams, prompts of {asked.prompt} tokens and {asked.tokens} more"
    starts = {kind: held for kind, held in chunk_starts(asked.prompt, asked.chunk).items() if kind[1] > 1}
    return mix_of_kinds(source, dims, [*(prompts * rows), *[(rows, 1)] * max(1, asked.tokens - 1)], starts)


def chunk_starts(prompt: int, chunk: int) -> dict[tuple[int, int], tuple[int, ...]]:
    """The chunks of a prompt alone, as kinds of messages, and what its slot holds before each of them."""
    starts: dict[tuple[int, int], tuple[int, ...]] = {}
    for start in range(0, prompt, chunk):
        kind = 1, min(chunk, prompt - start)
        starts[kind] = (*starts.get(kind, ()), start)
    return starts


def mix_of_kinds(
    source: str, dims: Mapping[str, Dim], kinds: Sequence[tuple[int, int]],
    contexts: Mapping[tuple[int, int], tuple[int, ...]] | None = None,
) -> Mix:  # fmt: skip
    """Messages of so many rows of so many tokens, and what slots hold before each kind, if that is not as usual."""
    return Mix(source=source, dims=dims, dim=TOKENS, messages=tuple(kinds), useful=1.0, contexts=contexts or {})
