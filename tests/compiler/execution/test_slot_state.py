"""Keys and values kept between steps: any schedule scores what the whole sequence at once does, or says lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_language import CONTEXT, VOCABULARY, WINDOW, tiny

from edgecompile.contract.generation import StateSpec
from edgecompile.execution.attention import bound
from edgecompile.execution.slot_state import SlotState, is_lost, lost, slot_value

SEQUENCES, LENGTH, SLOTS = 5, 30, 3
MODELS = {"all": ("LlamaForCausalLM", "LlamaConfig", {}),
          "window": ("MistralForCausalLM", "MistralConfig", {"sliding_window": WINDOW}),
          "both": ("Gemma2ForCausalLM", "Gemma2Config", {"sliding_window": WINDOW, "head_dim": 8})}  # fmt: skip
CLOSE = {"fp32": {"rtol": 1e-3, "atol": 1e-5}, "bf16": {"rtol": 0.0, "atol": 0.02}}
"""Of scores, whose spread is about 0.5."""


class Part(NamedTuple):
    """A row: tokens of a sequence from `start` on."""

    sequence: int
    slot: int
    start: int
    count: int


@dataclass(frozen=True)
class Model:
    step: Any
    specs: tuple[StateSpec, ...]
    dtype: str
    tokens: torch.Tensor
    """(sequences, length)."""
    wanted: torch.Tensor
    """(sequences, length, vocabulary): the scores after each token, of whole sequences."""

    def state(self) -> SlotState:
        return SlotState(self.specs, SLOTS, CONTEXT)

    def send(self, state: SlotState, *parts: Part) -> list[bool]:
        """One message; checks the scores of every row that is not lost, and says which are."""
        return self.send_marked(state, [slot_value(part.sequence + 1, part.slot, SLOTS) for part in parts], parts)

    def send_marked(self, state: SlotState, values: list[int], parts: Sequence[Part]) -> list[bool]:
        width = max(part.count for part in parts)
        ids, positions = torch.zeros(len(parts), width, dtype=torch.int64), torch.full((len(parts), width), -1)
        for row, part in enumerate(parts):
            end = part.start + part.count
            ids[row, : part.count] = self.tokens[part.sequence, part.start : end]
            positions[row, : part.count] = torch.arange(part.start, end)
        slots = torch.tensor(values)
        with torch.no_grad(), bound(state.step(slots, positions)):
            scores = self.step(ids, positions, slots)["logits"]
        assert scores.isfinite().all()
        for row, part in enumerate(parts):
            if slots[row] >= 0:
                want = self.wanted[part.sequence, part.start + part.count - 1]
                torch.testing.assert_close(scores[row], want, **CLOSE[self.dtype], msg=lambda text: f"{part}: {text}")  # noqa: B023
        return [is_lost(value) for value in slots.tolist()]


@pytest.fixture(scope="module", params=[(name, dtype) for dtype in CLOSE for name in MODELS])
def model(request: pytest.FixtureRequest) -> Model:
    name, dtype = request.param
    architecture, config, values = MODELS[name]
    step, reference = tiny(architecture, config, **values)
    size = step.model.config.head_dim or 8
    specs = tuple(
        StateSpec(unit=0, layer=layer, groups=2, key_size=size, value_size=size, dtype=dtype)
        for layer in range(len(step.windows))
    )
    tokens = torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH))
    with torch.no_grad():
        return Model(step, specs, dtype, tokens, reference(input_ids=tokens).logits)


def test_chunks_and_single_tokens_score_what_the_whole_does(model: Model) -> None:
    state = model.state()
    for start, count in ((0, 7), (7, 1), (8, 1), (9, 12), (21, 1), (22, 8)):
        assert model.send(state, Part(0, 1, start, count)) == [False]


def test_rows_at_unlike_positions_in_any_order_of_slots(model: Model) -> None:
    state = model.state()
    messages = (
        [Part(0, 0, 0, 7)],
        [Part(1, 2, 0, 8), Part(2, 1, 0, 3)],
        [Part(0, 0, 7, 5)],
        [Part(0, 0, 12, 1), Part(1, 2, 8, 1), Part(2, 1, 3, 1)],
        [Part(0, 0, 13, 1), Part(2, 1, 4, 1)],
        [Part(2, 1, 5, 1), Part(1, 2, 9, 1)],
        [Part(1, 2, 10, 15)],
        [Part(2, 1, 6, 4), Part(1, 2, 25, 2), Part(0, 0, 14, 1)],
    )
    for message in messages:
        assert model.send(state, *message) == [False] * len(message)


def test_a_row_that_needs_what_is_not_held_is_lost_and_the_others_are_right(model: Model) -> None:
    state = model.state()
    model.send(state, Part(0, 0, 0, 6))
    assert model.send(state, Part(0, 0, 6, 1), Part(1, 1, 5, 1)) == [False, True]  # never begun
    assert model.send(state, Part(1, 1, 3, 4), Part(0, 0, 7, 4)) == [True, False]
    assert model.send(state, Part(0, 0, 12, 1)) == [True]  # one token is missing
    assert model.send(state, Part(0, 0, 11, 1)) == [False]
    assert model.send(state, Part(2, 0, 12, 1)) == [True]  # the slot is another's
    assert model.send(state, Part(0, 0, 12, 1)) == [False]  # which that did not harm


def test_a_row_that_was_lost_before_this_rank_leaves_its_state_alone(model: Model) -> None:
    state = model.state()
    model.send(state, Part(0, 2, 0, 6))
    for begins in (0, 6):
        value = lost(slot_value(2, 2, SLOTS))
        assert model.send_marked(state, [value], [Part(1, 2, begins, 3)]) == [True]
        assert model.send(state, Part(0, 2, 6, 3)) == [False]


def test_a_slot_that_another_sequence_begins_again(model: Model) -> None:
    state = model.state()
    model.send(state, Part(0, 1, 0, 20))
    assert model.send(state, Part(1, 1, 0, 4)) == [False]
    assert model.send(state, Part(1, 1, 4, 1)) == [False]
    assert model.send(state, Part(0, 1, 20, 1)) == [True]
    assert model.send(state, Part(1, 1, 6, 1)) == [True]  # what the other had there is none of its own


def test_messages_that_come_again(model: Model) -> None:
    state = model.state()
    for _ in range(2):
        model.send(state, Part(0, 0, 0, 8), Part(1, 1, 0, 3))
        for start in (8, 9, 9, 8, 9, 10):
            assert model.send(state, Part(0, 0, start, 1)) == [False]
        assert model.send(state, Part(0, 0, 4, 9), Part(1, 1, 3, 2)) == [False, False]


def test_of_a_sequence_that_begins_again_only_what_came_since_is_held(model: Model) -> None:
    state = model.state()
    model.send(state, Part(0, 0, 0, 20))
    assert model.send(state, Part(0, 0, 0, 5)) == [False]
    assert model.send(state, Part(0, 0, 6, 1)) == [True]


def test_the_mark_of_a_lost_row_is_made_once() -> None:
    for value in (0, 1, 17):
        assert not is_lost(value)
        assert is_lost(lost(value))
        assert lost(lost(value)) == lost(value)


MESSAGES = st.lists(
    st.one_of(
        st.just("forget"),
        st.lists(
            st.tuples(st.integers(0, SEQUENCES - 1), st.sampled_from(["on", "on", "on", "again", "begin", "skip"]),
                      st.integers(1, 12)),
            min_size=1, max_size=SLOTS, unique_by=lambda item: item[0] % SLOTS,
        ),
    ),
    max_size=14,
)  # fmt: skip
"""Of rows: a sequence, whose slot is its number modulo the slots; from where; and how many tokens at most."""


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(messages=MESSAGES, one_token=st.booleans())
def test_any_schedule(model: Model, messages: list[Any], one_token: bool) -> None:
    state = model.state()
    holds = [(-1, 0)] * SLOTS
    for message in messages:
        if message == "forget":
            state, holds = model.state(), [(-1, 0)] * SLOTS
            continue
        parts, wanted = [], []
        for sequence, kind, most in message:
            slot = sequence % SLOTS
            owner, filled = holds[slot]
            here = filled if owner == sequence else 0
            start = {"on": here, "again": here // 2, "begin": 0, "skip": here + 1}[kind]
            count = min(1 if one_token else most, LENGTH - start)
            if count < 1:
                continue
            if start == 0:
                owner, filled = sequence, 0
            is_whole = owner == sequence and start <= filled
            if is_whole:
                holds[slot] = sequence, max(filled, start + count)
            parts.append(Part(sequence, slot, start, count))
            wanted.append(not is_whole)
        if parts:
            assert model.send(state, *parts) == wanted
