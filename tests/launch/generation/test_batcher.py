"""Whatever is lost, cancelled and admitted on the way: each sequence ends with the tokens of an undisturbed run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Several
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edgecompile.execution.slot_state import SlotState, is_lost, slot_value
from edgelaunch.generation.batcher import Batcher, Row, Sequence

CONTEXT = 64


def next_value(before: int, tokens: Several[int]) -> int:
    """What a stage makes of all tokens that it holds and of what the stage before made of them."""
    return hash((before, *tokens)) % 1009


def next_token(tokens: Several[int], num_ranks: int) -> int:
    value = 0
    for _ in range(num_ranks):
        value = next_value(value, tokens)
    return value


def undisturbed(prompt: Several[int], count: int, num_ranks: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, num_ranks))
    return tokens[len(prompt) :]


@dataclass
class Message:
    number: int
    slots: torch.Tensor
    positions: torch.Tensor
    tokens: list[list[int]]
    values: list[int]

    @classmethod
    def of(cls, number: int, rows: Several[Row], num_slots: int) -> Message:
        positions = torch.full((len(rows), max(row.count for row in rows)), -1)
        for index, row in enumerate(rows):
            positions[index, : row.count] = torch.arange(row.start, row.start + row.count)
        slots = torch.tensor([slot_value(row.sequence.serial, row.sequence.slot, num_slots) for row in rows])
        tokens = [row.sequence.tokens[row.start : row.start + row.count] for row in rows]
        return cls(number, slots, positions, tokens, [0] * len(rows))


class Rank:
    """Holds tokens as a stage holds their keys and values."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self.forget()

    def forget(self) -> None:
        self._state = SlotState((), self._num_slots, CONTEXT)
        self._held: dict[int, list[int]] = {}

    def run(self, message: Message) -> None:
        self._state.step(message.slots, message.positions)
        for row, value in enumerate(message.slots.tolist()):
            if not is_lost(value):
                start, tokens = int(message.positions[row, 0]), message.tokens[row]
                held = self._held.setdefault(value % self._num_slots, [])
                assert len(held) >= start
                held[start : start + len(tokens)] = tokens
                message.values[row] = next_value(message.values[row], held[: start + len(tokens)])


@dataclass(eq=False)
class Live:
    sequence: Sequence
    prompt: list[int]
    count: int


class Pipeline(RuleBasedStateMachine):
    @initialize(slots=st.integers(1, 4), chunk=st.integers(2, 8), rows=st.integers(1, 4), num_ranks=st.integers(1, 3))
    def begin(self, slots: int, chunk: int, rows: int, num_ranks: int) -> None:
        self.groups = min(num_ranks, slots)
        self.batcher = Batcher(slots=slots, chunk=chunk, rows=rows, groups=self.groups)
        self.ranks = [Rank(slots) for _ in range(num_ranks)]
        self.links = [deque[Message]() for _ in range(num_ranks + 1)]
        """Before each rank, and behind the last."""
        self.live: dict[int, Live] = {}
        self.messages = 0
        self.forgot = False

    # --- what happens ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.batcher.has_room)
    @rule(length=st.integers(1, 20), first=st.integers(0, 999), count=st.integers(1, 6))
    def admit(self, length: int, first: int, count: int) -> None:
        prompt = [(first + 7 * place) % 1009 for place in range(length)]
        sequence = self.batcher.admit(prompt)
        assert sequence.serial not in self.live
        self.live[sequence.serial] = Live(sequence, prompt, count)

    @rule()
    def send(self) -> None:
        self.take()

    def take(self) -> bool:
        under_way = self.batcher.num_under_way
        taken = self.batcher.take()
        if taken is None:
            assert under_way or not self.live, "nothing is under way and nothing is sent"
            return False
        number, rows = taken
        self.messages += 1
        assert self.batcher.next_number == number + 1
        assert 1 <= len(rows) <= self.batcher.rows
        assert all(row.count >= 1 and row.start + row.count <= len(row.sequence.tokens) for row in rows)
        assert len({row.sequence.slot for row in rows}) == len(rows)
        assert max(row.count for row in rows) * len(rows) <= max(self.batcher.chunk, self.batcher.rows)
        assert {row.sequence.serial for row in rows} <= set(self.live)
        self.links[0].append(Message.of(number, rows, self.batcher.slots))
        return True

    @rule(place=st.integers(0, 2))
    def move(self, place: int) -> None:
        if place < len(self.ranks) and self.links[place]:
            message = self.links[place].popleft()
            self.ranks[place].run(message)
            self.links[place + 1].append(message)

    @rule()
    def arrive(self) -> None:
        if not self.links[-1]:
            return
        message = self.links[-1].popleft()
        rows = self.batcher.rows_of(message.number)
        chosen = self.batcher.arrive(message.number, [is_lost(value) for value in message.slots.tolist()])
        assert self.forgot or not any(row.sequence.rebuilt for row in rows)
        by_serial = {row.sequence.serial: value for row, value in zip(rows, message.values, strict=True)}
        for sequence in chosen:
            live = self.live[sequence.serial]
            token = by_serial[sequence.serial]
            assert token == next_token(sequence.tokens, len(self.ranks))
            self.batcher.append(sequence, token)
            if len(sequence.tokens) == len(live.prompt) + live.count:
                assert sequence.tokens[len(live.prompt) :] == undisturbed(live.prompt, live.count, len(self.ranks))
                self.batcher.drop(sequence)
                del self.live[sequence.serial]

    @rule(count=st.integers(1, 6))
    def flow(self, count: int) -> None:
        """A while without disturbance."""
        for _ in range(count):
            self.take()
            for place in range(len(self.ranks)):
                self.move(place)
            self.arrive()

    @rule(place=st.integers(0, 2), forgets=st.booleans())
    def fail(self, place: int, forgets: bool) -> None:
        """Every message under way is lost, and perhaps what a rank held."""
        if forgets and place < len(self.ranks):
            self.ranks[place].forget()
            self.forgot = True
        for link in self.links:
            link.clear()
        self.batcher.send_again()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        live = self.live.pop(data.draw(st.sampled_from(sorted(self.live))))
        self.batcher.drop(live.sequence)
        self.batcher.drop(live.sequence)  # who asked goes while it ends

    # --- what is always so -------------------------------------------------------------------------------------------

    @invariant()
    def few_messages_are_under_way(self) -> None:
        if hasattr(self, "batcher"):
            assert self.batcher.num_under_way <= self.groups + 1
            assert self.batcher.num_under_way == sum(len(link) for link in self.links)

    @invariant()
    def no_two_share_a_slot(self) -> None:
        if hasattr(self, "batcher"):
            slots = [live.sequence.slot for live in self.live.values()]
            assert len(slots) == len(set(slots)) == self.batcher.num_sequences
            assert self.batcher.has_room == (len(slots) < self.batcher.slots)

    def teardown(self) -> None:
        """Undisturbed from here on, all that live come to their end, in no more messages than each needs alone."""
        if not hasattr(self, "batcher"):
            return
        tokens = sum(len(live.prompt) + live.count for live in self.live.values())
        most = self.messages + 2 * tokens + 2 * (self.groups + 1)  # each may begin again once
        while self.live:
            while self.take():
                assert self.messages <= most, "no progress"
            for place in range(len(self.ranks)):
                while self.links[place]:
                    self.move(place)
            self.arrive()


@pytest.mark.slow
def test_any_disturbance() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Pipeline,
        settings=settings(
            max_examples=300, stateful_step_count=60, deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )  # fmt: skip


# --- by hand ---------------------------------------------------------------------------------------------------------


def spans(rows: Several[Row]) -> list[tuple[int, int, int]]:
    return [(row.sequence.serial, row.start, row.count) for row in rows]


def taken(batcher: Batcher) -> list[tuple[int, int, int]] | None:
    message = batcher.take()
    return None if message is None else spans(message[1])


def test_chunks_of_a_prompt_follow_each_other_without_waiting() -> None:
    batcher = Batcher(slots=2, chunk=4, rows=2, groups=2)
    batcher.admit(range(10))
    assert [taken(batcher) for _ in range(4)] == [[(1, 0, 4)], [(1, 4, 4)], [(1, 8, 2)], None]


def test_short_prompts_share_a_message() -> None:
    batcher = Batcher(slots=4, chunk=8, rows=4, groups=1)
    for length in (4, 3, 5, 4):
        batcher.admit(range(length))
    assert taken(batcher) == [(1, 0, 4), (2, 0, 3)]
    assert taken(batcher) == [(3, 0, 5)]


def test_steps_are_spread_over_as_many_groups_as_stages() -> None:
    batcher = Batcher(slots=4, chunk=8, rows=4, groups=2)
    for _ in range(4):
        batcher.admit([5])
    assert taken(batcher) == [(1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1)]
    for sequence in batcher.arrive(0, [False] * 4):
        batcher.append(sequence, 6)
    assert taken(batcher) == [(1, 1, 1), (2, 1, 1)]
    assert taken(batcher) == [(3, 1, 1), (4, 1, 1)]


def test_prompts_and_steps_take_turns() -> None:
    batcher = Batcher(slots=3, chunk=4, rows=1, groups=3)
    first = batcher.admit([1])
    assert taken(batcher) == [(1, 0, 1)]
    assert batcher.arrive(0, [False]) == [first]
    batcher.append(first, 2)
    batcher.admit(range(12))
    assert [taken(batcher) for _ in range(3)] == [[(1, 1, 1)], [(2, 0, 4)], [(2, 4, 4)]]


def test_a_lost_row_begins_again_and_what_was_under_way_of_it_counts_no_more() -> None:
    batcher = Batcher(slots=1, chunk=4, rows=1, groups=2)
    sequence = batcher.admit(range(6))
    assert [taken(batcher), taken(batcher)] == [[(1, 0, 4)], [(1, 4, 2)]]
    assert batcher.arrive(0, [True]) == []
    assert taken(batcher) == [(1, 0, 4)]
    assert batcher.arrive(1, [True]) == []
    assert sequence.rebuilt == 1
    assert taken(batcher) == [(1, 4, 2)]
    assert batcher.arrive(2, [False]) == []
    assert batcher.arrive(3, [False]) == [sequence]


def test_what_has_no_result_is_sent_again_from_the_oldest_on() -> None:
    batcher = Batcher(slots=2, chunk=4, rows=2, groups=2)
    first, second = batcher.admit(range(6)), batcher.admit(range(3))
    assert [taken(batcher) for _ in range(3)] == [[(1, 0, 4)], [(1, 4, 2)], [(2, 0, 3)]]
    assert batcher.arrive(0, [False]) == []
    batcher.send_again()
    assert batcher.num_under_way == 0
    assert [taken(batcher) for _ in range(3)] == [[(1, 4, 2)], [(2, 0, 3)], None]
    assert batcher.next_number == 5
    assert batcher.arrive(3, [False]) == [first]
    assert first.rebuilt == second.rebuilt == 0


def test_results_come_in_order() -> None:
    batcher = Batcher(slots=1, chunk=4, rows=1, groups=2)
    batcher.admit(range(6))
    batcher.take(), batcher.take()
    with pytest.raises(AssertionError, match="the result of message 1 came before that of 0"):
        batcher.arrive(1, [False])
