"""A timeout is a number of seconds; what it bounds is checked as long as it waits."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from edgecompile.contract.errors import UserError
from edgelaunch.application.deadlines import Deadline, checked_timeout
from edgelaunch.application.streaming import results_of_async
from edgelaunch.generation.answers import Answer, TextRequest

WRONG = ["1", math.nan, np.float32("nan"), True, b"1", [1], Decimal(1), 10**400, 1j]


@pytest.mark.parametrize("timeout", WRONG, ids=repr)
def test_a_timeout_that_is_no_number_is_refused(timeout: Any) -> None:
    said = r"^invalid value .* for timeout: expected a number of seconds, or None$"
    with pytest.raises(UserError, match=said):
        Deadline(timeout, lambda: None)
    running: Any = None  # not looked at before the timeout is

    async def first() -> None:
        await anext(results_of_async(running, [], timeout))

    with pytest.raises(UserError, match=said):
        asyncio.run(first())


def test_timeouts_that_are_numbers() -> None:
    given = [None, 0, -1, 2.5, np.float32(0.5), np.int64(3), Fraction(1, 2), math.inf]
    assert [checked_timeout(timeout) for timeout in given] == [None, 0.0, -1.0, 2.5, 0.5, 3.0, 0.5, math.inf]


@pytest.mark.parametrize("timeout", [0, -1, -math.inf])
def test_zero_and_less_have_passed(timeout: float) -> None:
    with pytest.raises(TimeoutError, match=f"no result within {timeout:g} s"):
        Deadline(timeout, lambda: None).check()
    Deadline(math.inf, lambda: None).check()


def test_a_deadline_is_kept_while_text_flows() -> None:
    """There is always a piece, so that nobody ever waits for one."""
    answer = Answer(TextRequest(prompt=(5,), max_tokens=9))
    answer.give("a")
    checks, read = iter([None, None, TimeoutError()]), []

    def check() -> None:
        if (problem := next(checks)) is not None:
            raise problem

    def read_all() -> None:
        for piece in answer.pieces(check):
            read.append(piece)
            assert len(read) < 5, "it is never checked"
            answer.give("b")

    with pytest.raises(TimeoutError):
        read_all()
    assert read == ["a", "b"]


def test_an_answer_that_is_whole_is_given_whenever_it_is_read() -> None:
    answer = Answer(TextRequest(prompt=(5,), max_tokens=9))
    answer.give("a")
    answer.give("b")
    answer.end("length")
    assert list(answer.pieces(Deadline(0, lambda: None).check)) == ["a", "b"]
