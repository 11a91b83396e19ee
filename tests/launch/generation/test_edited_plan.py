"""A plan of text generation that was edited by hand is refused where ranks would compute something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import GeneratedText
from edgecompile.contract.plan import Plan
from edgecompile.contract.validation import check_plan

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slots": 0}, "generation.slots"),
        ({"context": 1 << 30}, "generation.context"),
        ({"chunk": 4096}, "generation.chunk"),
        ({"candidates": 0}, "generation.candidates"),
        ({"vocabulary": 7}, "generation.vocabulary"),
        ({"state": ()}, "generation.state"),
        ({"stop_ids": (-1,)}, "generation.stop_ids.0"),
        ({"tokenizer": "../x.json", "sha256": "0" * 64}, "generation.tokenizer"),
        ({"golden": (GeneratedText(prompt=(), tokens=(1,)),)}, "generation.golden.0"),
        ({"golden": (GeneratedText(prompt=(1,), tokens=(1 << 40,)),)}, "generation.golden.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_cannot_be(text_facts: Plan, changes: dict[str, Any], said: str) -> None:
    assert text_facts.generation is not None
    check_plan(text_facts, "plan")
    wrong = replace(text_facts, generation=replace(text_facts.generation, **changes))
    with pytest.raises(UserError, match=rf"plan: invalid value .* for {said}"):
        check_plan(wrong, "plan")


def test_a_layer_is_kept_once(text_facts: Plan) -> None:
    assert text_facts.generation is not None
    state = text_facts.generation.state
    twice = replace(text_facts.generation, state=(*state, state[-1]))
    with pytest.raises(UserError, match="each layer from 0 on, once"):
        check_plan(replace(text_facts, generation=twice), "plan")
