"""Each answer goes by its line, whatever ids lines state; a later run asks for those that have none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.commands.text_session import TextSession
from edgelaunch.generation.answers import Answer, TextRequest
from edgelaunch.outputs.partial_results import partial_folder
from edgelaunch.request.run_request import RunRequest

pytestmark = pytest.mark.slow

REPEATED = ('{"id": "a", "tokens": [5]}', '{"id": "a", "tokens": [6]}', '{"id": "b", "tokens": [7]}')


class BrokenOff(Exception):
    pass


class FakeEnds:
    """Answers at once, until it is broken off."""

    def __init__(self, finish: str | None = "length", most: int = 1 << 30) -> None:
        """`finish`: None: no answer comes to its end. `most`: requests that are taken."""
        self._finish, self._most = finish, most
        self.asked: list[tuple[int, ...]] = []

    def ask(self, request: TextRequest, *, ended: Callable[[Answer], None] = lambda answer: None) -> Answer:
        if len(self.asked) == self._most:
            raise BrokenOff
        self.asked.append(request.prompt)
        answer = Answer(request, ended)
        if self._finish is not None:
            answer.end(self._finish)
        return answer


class Asking:
    def __init__(self, plan: Path, facts: Plan, folder: Path) -> None:
        self._plan, self._facts, self.input, self.output = plan, facts, folder / "x.jsonl", folder / "y.jsonl"

    def write(self, *lines: str) -> None:
        self.input.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def session(self, **options: Any) -> TextSession:
        request = RunRequest(plan_path=self._plan, input=self.input, output=self.output, **options)
        return TextSession(request, self._facts, self._plan.parent)

    def answered(self, session: TextSession, ends: FakeEnds) -> list[tuple[Any, int, bool]]:
        """Of each line of the output its id, its line, and whether it is an answer; in the lines' order."""
        session._answer_lines(ends)  # type: ignore[arg-type]
        assert session._writer is not None
        session._writer.finish()
        rows = [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]
        assert all(list(row)[:2] == ["id", "line"] for row in rows)
        return sorted(((row["id"], row["line"], "error" not in row) for row in rows), key=lambda row: row[1])


@pytest.fixture
def asking(text_plan: Path, text_facts: Plan, tmp_path: Path) -> Asking:
    return Asking(text_plan, text_facts, tmp_path)


def test_broken_lines_take_nobodys_id(asking: Asking) -> None:
    asking.write("{", '{"id": 1, "tokens": [5]}', '{"max_tokens": 3}', '{"id": 3, "tokens": [6]}', "[7]",
                 '{"id": 5, "tokens": [8]}', '{"id": 7, "tokens": "x"}', '{"id": 7, "tokens": [9]}')  # fmt: skip
    ends = FakeEnds()
    assert asking.answered(asking.session(), ends) == [
        (None, 1, False), (1, 2, True), (None, 3, False), (3, 4, True), (5, 5, True), (5, 6, True), (7, 7, False),
        (7, 8, False),
    ]  # fmt: skip
    assert ends.asked == [(5,), (6,), (7,), (8,)]


def test_the_first_line_of_a_repeated_id_is_asked_again_after_a_break(asking: Asking) -> None:
    """Its second line has its error at once, before the first has its answer."""
    asking.write(*REPEATED)
    session = asking.session()
    with pytest.raises(BrokenOff):
        session._answer_lines(FakeEnds(finish=None, most=1))  # type: ignore[arg-type]
    session.discard()
    (row,) = (partial_folder(asking.output) / "rows.jsonl").read_text().splitlines()
    assert (json.loads(row)["id"], json.loads(row)["line"]) == ("a", 2)
    ends = FakeEnds()
    assert asking.answered(asking.session(resume=True), ends) == [("a", 1, True), ("a", 2, False), ("b", 3, True)]
    assert ends.asked == [(5,), (7,)]


def test_what_the_end_of_a_run_cut_off_is_no_answer(asking: Asking) -> None:
    asking.write(*REPEATED)
    session = asking.session()
    session._answer_lines(FakeEnds(finish="cancelled"))  # type: ignore[arg-type]
    session.discard()
    ends = FakeEnds()
    assert len(asking.answered(asking.session(resume=True), ends)) == 3
    assert ends.asked == [(5,), (7,)]


@pytest.mark.parametrize(
    ("options", "name"),
    [({"temperature": 0.5}, "--temperature"), ({"seed": 1}, "--seed"), ({"max_tokens": 3}, "--max-tokens"),
     ({"stop": "x"}, "--stop"), ({"repetition_penalty": 1.5}, "--repetition-penalty"), ({"top_k": 3}, "--top-k"),
     ({"top_p": 0.5}, "--top-p"), ({"raw": True}, "--raw")],
)  # fmt: skip
def test_answers_of_other_options_are_not_mixed(asking: Asking, options: dict[str, Any], name: str) -> None:
    asking.write(*REPEATED)
    asking.session(**options).discard()
    with pytest.raises(UserError, match=f"holds answers with another {name} "):
        asking.session(resume=True)
    asking.session(resume=True, **options).discard()


def test_options_that_say_what_holds_anyway_are_the_same(asking: Asking) -> None:
    asking.write(*REPEATED)
    asking.session().discard()
    asking.session(resume=True, max_tokens=256, top_k=50, temperature=0, stop="").discard()


@pytest.mark.parametrize("lines", [REPEATED, ("{", "{")], ids=["answers", "errors"])
def test_a_full_disk_is_one_clear_error(asking: Asking, lines: tuple[str, ...]) -> None:
    asking.write(*lines)
    session = asking.session()
    assert session._writer is not None
    os.dup2(os.open("/dev/full", os.O_WRONLY), session._writer._file.fileno())
    with pytest.raises(UserError, match=r"y\.jsonl: cannot be written: No space left on device$"):
        session._answer_lines(FakeEnds())  # type: ignore[arg-type]
    session.discard()


@pytest.mark.parametrize("candidates", [1, 49, 64])
def test_golden_texts_are_asked_for_whatever_candidates_a_plan_keeps(
    text_plan: Path, text_facts: Plan, candidates: int
) -> None:
    assert text_facts.generation is not None
    few = replace(text_facts.generation, candidates=candidates)
    session = TextSession(RunRequest(plan_path=text_plan, verify=True), replace(text_facts, generation=few),
                          text_plan.parent)  # fmt: skip
    asked = list[TextRequest]()

    class Checking(FakeEnds):
        def ask(self, request: TextRequest, *, ended: Callable[[Answer], None] = lambda answer: None) -> Answer:
            request.check(few)
            asked.append(request)
            return super().ask(request, ended=ended)

    session._verify(Checking())  # type: ignore[arg-type]
    assert [request.keep_scores for request in asked] == [True] + [False] * len(few.golden)
