"""A plan edited by hand is refused where it would give other answers, or end a rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.validation import check_plan
from edgecompile.execution.slot_state import SlotState
from edgelaunch.pipeline.text_stage import _NONE


@pytest.mark.parametrize(
    ("key", "value"),
    [("slots", 0), ("slots", 1 << 20), ("context", 0), ("context", 20), ("chunk", 0), ("chunk", 17), ("candidates", 0),
     ("candidates", 401), ("vocabulary", 399), ("vocabulary", 401), ("state", ()), ("stop_ids", (-1,)),
     ("sha256", None)],
)  # fmt: skip
def test_a_value_that_the_shards_do_not_have_is_refused(text_facts: Plan, key: str, value: Any) -> None:
    assert text_facts.generation is not None
    check_plan(text_facts, "plan.yaml")
    edited = replace(text_facts, generation=replace(text_facts.generation, **{key: value}))
    with pytest.raises(UserError, match=r"^plan.yaml: invalid value .* for generation\."):
        check_plan(edited, "plan.yaml")


@pytest.mark.parametrize(
    "change", [{"layer": 7}, {"unit": -1}, {"unit": 1 << 20}, {"groups": 0}, {"window": -1}, {"dtype": "fp16"}]
)
def test_state_that_no_unit_keeps_is_refused(text_facts: Plan, change: dict[str, Any]) -> None:
    assert text_facts.generation is not None
    first, *others = text_facts.generation.state
    edited = replace(text_facts.generation, state=(replace(first, **change), *others))
    with pytest.raises(UserError, match=r"generation\.state"):
        check_plan(replace(text_facts, generation=edited), "plan.yaml")


def test_attention_of_a_stage_without_its_state_fails() -> None:
    one = torch.zeros(1, 1, 1, 4)
    step = SlotState([], 1, 8).step(torch.tensor([0]), torch.tensor([[0]]))
    for state in (_NONE, step):
        with pytest.raises(KeyError, match=r"generation\.state has no layer 3"):
            state.attend(one, one, one, 3, 1.0, 0, 0.0, None)
