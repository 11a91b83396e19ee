"""Requests for text as files, and the answers to them."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from launch_harness import DEADLINE_S, Running

__all__ = ["Answers", "random_requests", "read_answers", "wait_for_answers", "write_lines"]

Answers = dict[Any, dict[str, Any]]
"""By id."""


def random_requests(seed: int, count: int, least_tokens: int = 1, **sampling: Any) -> list[dict[str, Any]]:
    """Of unlike lengths, up to 59 tokens; every other one sampled."""
    rng, lines = random.Random(seed), []
    for number in range(count):
        line: dict[str, Any] = {
            "id": f"n{number}", "tokens": [rng.randrange(4, 400) for _ in range(rng.randrange(1, 60))],
            "max_tokens": rng.randrange(least_tokens, 60), "ignore_end": True,
        }  # fmt: skip
        if number % 2:
            line |= {"temperature": 0.9, "seed": number, "top_p": 0.95, **sampling}
        lines.append(line)
    return lines


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def read_answers(path: Path) -> Answers:
    values = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = {value["id"]: value for value in values}
    assert len(answers) == len(values), "an answer came twice"
    return answers


def wait_for_answers(running: Running, output: Path, count: int) -> None:
    rows = output.with_name(f"{output.name}.partial") / "rows.jsonl"
    deadline = time.monotonic() + DEADLINE_S
    while not rows.exists() or rows.read_bytes().count(b"\n") < count:
        assert running.process.poll() is None, running.text()
        assert time.monotonic() < deadline, running.text()
        time.sleep(0.01)
