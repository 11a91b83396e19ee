"""The messages that a plan for text generation is made for."""

from __future__ import annotations

import pytest

from edgecompile.config.generation_request import GenerationRequest
from edgecompile.contract.plan import Dim
from edgecompile.profile.text_mix import decoding_rows, text_mix

DIMS = {"batch": Dim(min=1, max=4), "tokens": Dim(min=1, max=16)}


def request(**values: int) -> GenerationRequest:
    given = {"slots": 4, "context": 128, "chunk": 16, "prompt": 40, "tokens": 5, "candidates": 8}
    return GenerationRequest(**(given | values), tokenizer=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slots", "stages", "rows"), [(4, 1, 4), (4, 2, 2), (4, 3, 2), (4, 4, 1), (4, 9, 1), (1, 3, 1), (5, 2, 3)]
)
def test_each_stage_has_a_group_of_slots(slots: int, stages: int, rows: int) -> None:
    assert decoding_rows(slots, stages) == rows


def test_prompts_come_in_chunks_and_each_further_token_in_a_step() -> None:
    mix = text_mix(request(), DIMS, stages=2)
    assert sorted(mix.messages) == sorted([(1, 16), (1, 16), (1, 8)] * 2 + [(2, 1)] * 4)
    assert "4 streams, prompts of 40 tokens and 5 more" in mix.source


@pytest.mark.parametrize(("prompt", "chunks"), [(1, [1]), (16, [16]), (17, [16, 1]), (32, [16, 16])])
def test_a_prompt_leaves_no_chunk_empty(prompt: int, chunks: list[int]) -> None:
    mix = text_mix(request(prompt=prompt, tokens=1, slots=1), DIMS, stages=2)
    assert sorted(mix.messages) == sorted([(1, count) for count in chunks] + [(1, 1)])
