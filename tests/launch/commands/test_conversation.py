"""A conversation goes on whatever one message does, and a new one can be begun."""

from __future__ import annotations

import io
from typing import Any

import pytest
from tiny_text import generation

from edgecompile.contract.errors import UserError
from edgelaunch.commands.conversation import converse, cut_off
from edgelaunch.generation.answers import Answer, TextRequest, TooLong

FACTS = generation(None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def talk(*lines: str, monkeypatch: pytest.MonkeyPatch, typed: bool = False, quiet: bool = True) -> tuple[Any, ...]:
    """What was asked, each as the texts of its messages; what was shown. The context holds three messages."""
    stdin = (Terminal if typed else io.StringIO)("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr("sys.stdin", stdin)
    asked, shown = list[list[str]](), list[str]()

    def answer_to(messages: list[dict[str, Any]]) -> Answer:
        if len(messages) > 3 or "long" in messages[-1]["content"]:
            raise TooLong("--chat: the prompt has 70 tokens: shorten it")
        if messages[-1]["content"] == "bad":
            raise UserError("--chat: the template refuses it")
        asked.append([message["content"] for message in messages])
        answer = Answer(TextRequest(prompt=(5,), max_tokens=9))
        answer.text = f"to {messages[-1]['content']}"
        return answer

    converse(answer_to, shown.append, FACTS, quiet=quiet)
    return asked, shown


def test_a_full_context_says_what_to_do_and_a_new_conversation_is_begun(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked, shown = talk("a", "b", "c", "d", " /new ", "e", "f", monkeypatch=monkeypatch)
    assert asked == [["a"], ["a", "to a", "b"], ["e"], ["e", "to e", "f"]]
    assert shown == ["> a\n", "> b\n", "> c\n", "> d\n", "> /new\n", "> e\n", "> f\n"]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2
    for line in said:
        assert "the conversation is too long for the context of 64 tokens: begin a new one with /new" in line


def test_a_message_that_is_refused_by_itself_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked, _ = talk("long", "", "bad", "a", "bad", "b", monkeypatch=monkeypatch)
    assert asked == [["a"], ["a", "to a", "b"]]
    said = capfd.readouterr().err.splitlines()
    assert [line.partition("--chat: ")[2] for line in said] == [
        "the prompt has 70 tokens: shorten it", "the template refuses it", "the template refuses it"
    ]  # fmt: skip


@pytest.mark.parametrize("quiet", [False, True])
def test_who_types_is_told_how_first(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], quiet: bool
) -> None:
    _, shown = talk("a", monkeypatch=monkeypatch, typed=True, quiet=quiet)
    assert shown == []
    told = capfd.readouterr().err
    assert told.endswith("> > ")
    assert ("/new begins a new conversation" in told) is not quiet


@pytest.mark.parametrize(
    ("finish", "count", "said"),
    [("stop", 9, None), ("cancelled", 3, None), ("length", 9, "cut off after 9 tokens: --max-tokens"),
     ("length", 4, "cut off: the context of 64 tokens is full"), ("candidates", 3, "the plan's 64 candidates")],
)  # fmt: skip
def test_an_answer_that_is_cut_off_is_told(finish: str, count: int, said: str | None) -> None:
    answer = Answer(TextRequest(prompt=(5,) * (60 if count == 4 else 50), max_tokens=9))
    answer.tokens, answer.finish = [7] * count, finish
    found = cut_off(answer, FACTS)
    assert found is None if said is None else said in str(found)
