"""A conversation in the terminal, a line a message, until the end of the input."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import Generation
from edgelaunch.generation.answers import Answer, TooLong
from edgelaunch.process.stderr import say

__all__ = ["NEW", "converse", "cut_off"]

NEW = "/new"
"""A line that begins a new conversation."""


def converse(
    answer_to: Callable[[list[dict[str, Any]]], Answer], show: Callable[[str], None], generation: Generation, *,
    quiet: bool,
) -> None:  # fmt: skip
    """
    Args:
        answer_to: the whole answer to these messages, once it was shown; raises UserError where there is none.
        show: writes what was said where no person has typed it.
        quiet: whether nobody is told how to converse.
    """
    messages = list[dict[str, Any]]()
    typed = sys.stdin.isatty()
    if typed and not quiet:
        say(f"a line is a message; {NEW} begins a new conversation, Ctrl-D ends")
    while True:
        if typed:
            print("> ", end="", flush=True, file=sys.stderr)
        line = sys.stdin.readline()
        if not line:
            return
        said = line.strip()
        if not said:
            continue
        if not typed:
            show(f"> {said}\n")
        if said == NEW:
            messages.clear()
            continue
        messages.append({"role": "user", "content": said})
        try:
            answer = answer_to(messages)
        except UserError as error:
            messages.pop()
            problem = _too_long(generation) if isinstance(error, TooLong) and messages else str(error)
            say(problem, level=logging.WARNING, about="edgelaunch", event="bad_item")
            continue
        messages.append({"role": "assistant", "content": answer.text})


def _too_long(generation: Generation) -> str:
    return (
        f"--chat: with this message the conversation is too long for the context of {generation.context} tokens: begin "
        f"a new one with {NEW}, say less, or compile with a larger generation.context"
    )


def cut_off(answer: Answer, generation: Generation) -> str | None:
    """Why an answer is not whole; None: it is, or the run has ended."""
    if answer.finish == "candidates":
        return (f"cut off: the repetition penalty needs more than the plan's {generation.candidates} candidates: "
                "compile with a larger generation.candidates")  # fmt: skip
    if answer.finish != "length":
        return None
    if len(answer.request.prompt) + len(answer.tokens) >= generation.context:
        return f"cut off: the context of {generation.context} tokens is full"
    return f"cut off after {answer.request.max_tokens} tokens: --max-tokens"
