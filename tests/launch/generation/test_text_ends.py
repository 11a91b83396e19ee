"""Requests wait for a slot, come to their end or go away; a result is for whom it was asked."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from launch_plans import Written
from tiny_text import generation, write_byte_level

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.common.failures import Abandoned
from edgelaunch.generation.answers import Answer, TextRequest
from edgelaunch.generation.batcher import Row
from edgelaunch.generation.dialogue import Spelling
from edgelaunch.generation.text_ends import Busy, TextEnds
from edgelaunch.generation.text_report import figures_of
from edgelaunch.generation.token_choice import Sampling

END = 1
"""The token that ends a text."""


class Results:
    """Stands for a message's results: each row's most likely token, and whether a rank had lost what it needs."""

    def __init__(self, tokens: list[int], lost: list[bool], total: float = 3.0) -> None:
        self._tokens, self._lost, self._total = tokens, lost, total

    def named(self) -> dict[str, torch.Tensor]:
        return {
            "scores": torch.tensor([[2.0, 1.0]] * len(self._tokens)),
            "ids": torch.tensor([[token, 0] for token in self._tokens]),
            "total": torch.tensor([self._total] * len(self._tokens)),
            "slots": torch.tensor([-1 if lost else 0 for lost in self._lost]),
        }


class Driven:
    """Ends whose messages a test takes and answers itself."""

    def __init__(self, plan: Plan, spelling: Spelling | None = None, folder: Path = Path(), **values: Any) -> None:
        facts = replace(generation(None), stop_ids=(END,), **values)
        self.ends = TextEnds(
            replace(plan, generation=facts), folder, lambda ends: None, spelling=spelling, most_waiting=3
        )
        self.epoch = 1
        self.ends.begin(1)

    def take(self) -> tuple[int, tuple[Row, ...]]:
        taken = self.ends.take(self.epoch)
        assert taken is not None
        return taken

    def answer(self, number: int, tokens: list[int], lost: bool = False) -> None:
        self.ends.results(self.epoch, number, Results(tokens, [lost] * len(tokens)))  # type: ignore[arg-type]

    def step(self, token: int) -> tuple[Row, ...]:
        """A message whose every row has this result."""
        number, rows = self.take()
        self.answer(number, [token] * len(rows))
        return rows


@pytest.fixture
def driven(one_stage: Written) -> Driven:
    return Driven(one_stage.plan, slots=1)


def asked(driven: Driven, prompt: tuple[int, ...] = (5,), max_tokens: int = 9, **values: Any) -> Answer:
    return driven.ends.ask(TextRequest(prompt=prompt, max_tokens=max_tokens, **values), wait=False)


def test_an_answer_comes_to_its_end(driven: Driven) -> None:
    long, ended, ignoring = asked(driven, max_tokens=2), asked(driven), asked(driven, ignore_end=True, max_tokens=2)
    for token in (7, 8, 9, END, END, 6):
        driven.step(token)
    assert (long.tokens, long.finish) == ([7, 8], "length")
    assert (ended.tokens, ended.finish) == ([9], "stop")
    assert (ignoring.tokens, ignoring.finish) == ([END, 6], "length")
    driven.ends.close()
    assert driven.ends.take(driven.epoch) is None
    told = figures_of([long, ended, ignoring])
    assert (told.requests, told.prompt_tokens, told.tokens, told.rebuilt) == (3, 3, 5, 0)


@pytest.mark.parametrize("total", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_end_the_run(driven: Driven, total: float) -> None:
    asked(driven)
    number, _ = driven.take()
    with pytest.raises(UserError, match=rf"the model computes {total} as the scores of token 1 of a text"):
        driven.ends.results(driven.epoch, number, Results([7], [False], total))  # type: ignore[arg-type]


def test_an_answer_that_ends_at_once_is_empty(driven: Driven) -> None:
    answer = asked(driven)
    driven.step(END)
    assert (answer.tokens, answer.text, answer.finish) == ([], "", "stop")
    assert figures_of([answer]).token_s is None
    assert figures_of([]).first_token_s is None


def test_more_requests_than_may_wait_are_told_so(driven: Driven) -> None:
    for _ in range(3):
        asked(driven)
    driven.take()  # one has the slot now
    asked(driven)
    with pytest.raises(Busy, match="3 requests wait for one of 1 slots already"):
        asked(driven)


def test_who_waits_for_a_place_may_give_up(driven: Driven) -> None:
    for _ in range(3):
        asked(driven)

    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        driven.ends.ask(TextRequest(prompt=(5,), max_tokens=1), check=check)


def test_what_is_cancelled_frees_its_slot_and_its_results_are_nobodys(driven: Driven) -> None:
    first, second, third = asked(driven, max_tokens=1), asked(driven, max_tokens=1), asked(driven, max_tokens=1)
    number, rows = driven.take()
    driven.ends.cancel(first)
    driven.ends.cancel(second)
    assert (first.finish, second.finish) == ("cancelled", "cancelled")
    later, own = driven.take()
    assert own[0].sequence is not rows[0].sequence
    assert own[0].sequence.slot == rows[0].sequence.slot
    driven.answer(number, [7])
    assert first.tokens == third.tokens == []
    driven.answer(later, [8])
    assert (third.tokens, third.finish) == ([8], "length")
    driven.ends.cancel(third)
    assert third.finish == "length"


def test_after_the_end_a_request_is_cancelled(driven: Driven) -> None:
    driven.ends.close()
    assert asked(driven).finish == "cancelled"
    assert driven.ends.take(driven.epoch) is None


def test_a_message_without_a_result_is_sent_again(driven: Driven) -> None:
    answer = asked(driven, prompt=(5, 6), max_tokens=2)
    driven.step(7)
    number, rows = driven.take()
    driven.ends.halt()
    for stale in (lambda: driven.ends.take(1), lambda: driven.answer(number, [99])):
        with pytest.raises(Abandoned):
            stale()
    assert driven.ends.begin(2) == number + 1
    driven.epoch = 2
    again = driven.take()
    assert (again[1][0].start, again[1][0].count) == (rows[0].start, rows[0].count) == (2, 1)
    driven.answer(again[0], [8], lost=True)
    whole = driven.take()
    assert (whole[1][0].start, whole[1][0].count) == (0, 3)
    driven.answer(whole[0], [8])
    assert (answer.tokens, answer.rebuilt, answer.finish) == ([7, 8], 1, "length")


def test_who_waits_for_a_message_is_woken(driven: Driven) -> None:
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(driven.ends.take(1)), daemon=True)
    thread.start()
    asked(driven)
    thread.join(10)
    assert len(taken) == 1
    assert taken[0] is not None


def test_the_same_request_draws_the_same_tokens_beside_others(one_stage: Written) -> None:
    def drawn(beside: int) -> list[int]:
        driven = Driven(one_stage.plan, slots=4)
        for _ in range(beside):
            asked(driven, max_tokens=50)
        sampling = Sampling(temperature=1.0, seed=4)
        answer = asked(driven, prompt=(9, 9), max_tokens=20, sampling=sampling)
        while not answer.done:
            number, rows = driven.take()
            driven.answer(number, [row.start % 50 + 2 for row in rows])
        return answer.tokens

    alone = drawn(0)
    assert alone == drawn(2)
    assert 0 in alone  # the second candidate


@pytest.fixture
def spelling(tmp_path: Path) -> Spelling:
    path = write_byte_level(tmp_path)
    return Spelling(generation(path), tmp_path, "here")


def test_text_comes_piece_by_piece_and_ends_before_a_stop_word(one_stage: Written, spelling: Spelling) -> None:
    driven = Driven(one_stage.plan, spelling, slots=1)
    answer = asked(driven, stops=("fox",), max_tokens=50)
    tokens = spelling.prompt_tokens("the dog sees a fox that sleeps")[1:]
    pieces: list[str] = []
    reader = threading.Thread(target=lambda: pieces.extend(answer.pieces()), daemon=True)
    reader.start()
    for token in tokens:
        if answer.done:
            break
        driven.step(token)
    reader.join(10)
    assert "".join(pieces) == answer.text == "the dog sees a "
    assert len(pieces) > 2
    assert answer.finish == "stop"
    assert len(answer.tokens) < len(tokens)


def test_what_is_held_back_comes_with_the_end(one_stage: Written, spelling: Spelling) -> None:
    driven = Driven(one_stage.plan, spelling, slots=1)
    (token,) = spelling.prompt_tokens("f")[1:]
    answer = asked(driven, stops=("fox",), max_tokens=1)
    driven.step(token)
    assert (answer.text, answer.finish) == ("f", "length")
