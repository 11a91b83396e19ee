"""What a run holds of requests does not grow with them."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_text import generation

from edgecompile.contract.plan import Plan
from edgelaunch.commands import text_session
from edgelaunch.commands.text_session import MOST_UNWRITTEN, TextSession
from edgelaunch.generation.answers import Answer, TextRequest
from edgelaunch.generation.text_report import figures_of_all
from edgelaunch.generation.text_tally import TRACED, TextTally
from edgelaunch.outputs.answer_file import AnswerFile
from edgelaunch.request.run_request import RunRequest

MS = 1_000_000
COUNT = 3 * MOST_UNWRITTEN


def ended(number: int, finish: str = "length", first_s: int = 4, **values: Any) -> Answer:
    """Asked at 0, in a slot at 1 s, then a token each 10 ms."""
    answer = Answer(TextRequest(prompt=(5,) * 10, max_tokens=9, **values))
    answer.tokens = [7] * 5
    answer.asked_ns, answer.begun_ns, answer.first_ns = 1000 * MS, 2000 * MS, (1 + first_s) * 1000 * MS
    answer.last_ns = answer.first_ns + 40 * MS
    answer.slot, answer.finish = number % 4, finish
    return answer


def test_figures_are_of_all_requests_that_ended() -> None:
    tally = TextTally()
    assert figures_of_all(tally).tokens_per_s is None
    for number in range(3):
        tally.add(ended(number))
    nothing = ended(3, "cancelled")
    nothing.first_ns, nothing.tokens = 0, []
    tally.add(nothing)
    tally.add(ended(4, keep_scores=True))  # of --verify
    told = figures_of_all(tally)
    assert (told.requests, told.prompt_tokens, told.tokens) == (4, 30, 15)
    assert told.first_token_s == pytest.approx(4, rel=0.005)
    assert told.first_token_alone_s == pytest.approx(3, rel=0.005)
    assert told.token_s == pytest.approx(0.01, rel=0.005)
    assert told.prompt_tokens_per_s == pytest.approx(10 / 3, rel=0.005)
    assert told.tokens_per_s == pytest.approx(14 / 0.04)
    record = tally.record(generation(None), "boot")
    assert (record.requests, record.cancelled, record.first_token.count, len(record.trace)) == (4, 1, 3, 3)
    assert record.predicted_token_s == 1


def test_the_last_requests_times_are_kept() -> None:
    tally = TextTally()
    for number in range(TRACED + 5):
        tally.add(ended(number))
    trace = tally.record(generation(None), "boot").trace
    assert [request.slot for request in trace] == [number % 4 for number in range(5, TRACED + 5)]
    assert tally.requests == TRACED + 5


class FakeEnds:
    """Answers at once; knows which of its answers somebody still holds."""

    def __init__(self) -> None:
        self.asked: list[weakref.ref[Answer]] = []
        self.most_held = 0
        self.asking = threading.Condition()

    def ask(self, request: TextRequest, *, ended: Callable[[Answer], None] = lambda answer: None) -> Answer:
        answer = Answer(request, ended)
        with self.asking:
            self.asked.append(weakref.ref(answer))
            self.asking.notify_all()
        if len(self.asked) % 500 == 0:
            gc.collect()
        self.most_held = max(self.most_held, sum(held() is not None for held in self.asked))
        answer.end("length")
        return answer


@pytest.fixture
def session(text_plan: Path, text_facts: Plan, tmp_path: Path) -> TextSession:
    path = tmp_path / "x.jsonl"
    path.write_text('{"tokens": [5]}\n' * COUNT)
    request = RunRequest(plan_path=text_plan, input=path, output=tmp_path / "y.jsonl")
    return TextSession(request, text_facts, text_plan.parent)


@pytest.mark.slow
def test_answers_are_let_go_of_once_they_are_written_however_slow_the_disk_is(
    session: TextSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, add = FakeEnds(), AnswerFile.add

    def slow_add(self: AnswerFile, values: dict[str, Any]) -> None:
        with ends.asking:  # until as many answers wait as may
            assert ends.asking.wait_for(lambda: len(ends.asked) >= MOST_UNWRITTEN, 60)
        add(self, values)

    monkeypatch.setattr(AnswerFile, "add", slow_add)
    session._answer_lines(ends)  # type: ignore[arg-type]
    assert len(ends.asked) == COUNT
    assert ends.most_held <= MOST_UNWRITTEN + 2  # two hands hold one each: who asks, and who writes
    gc.collect()
    assert not any(held() for held in ends.asked)
    session.discard()


@pytest.mark.slow
def test_where_answers_cannot_be_written_no_more_are_asked_for(session: TextSession) -> None:
    ends = FakeEnds()

    assert session._writer is not None
    os.dup2(os.open("/dev/full", os.O_WRONLY), session._writer._file.fileno())
    with pytest.raises(text_session.UserError, match=r"y\.jsonl: cannot be written: No space left on device"):
        session._answer_lines(ends)  # type: ignore[arg-type]
    assert len(ends.asked) <= MOST_UNWRITTEN
    session.discard()
