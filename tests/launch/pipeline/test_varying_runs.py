"""Plans whose messages vary in size: each item's result is that of the item alone, at its own extents and in order."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import launch_varying
import pytest
from launch_harness import PROGRAM, run
from launch_plans import Written
from launch_varying import Arrays


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return launch_varying.texts(tmp_path_factory.mktemp("varying"))


def fed(written: Written, items: list[Arrays], output: Path, *arguments: object) -> list[dict[str, object]]:
    """The rows that a run of these items, as JSON on standard input, writes."""
    lines = "".join(json.dumps(item) + "\n" for item in launch_varying.as_json(items))
    command = [*PROGRAM, str(written.path), "--local", "--input", "-", "--output", str(output), *map(str, arguments)]
    ended = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def check_rows(written: Written, items: list[Arrays], rows: list[dict[str, object]]) -> None:
    assert [row["index"] for row in rows] == list(range(len(items)))
    for item, row in zip(items, rows, strict=True):
        launch_varying.check(written, item, row["outputs"])  # type: ignore[arg-type]


def test_two_ranks(plan: Written, tmp_path: Path) -> None:
    items = launch_varying.sentences(101)
    check_rows(plan, items, fed(plan, items, tmp_path / "y.jsonl"))
    record = json.loads((plan.path.parent / "run.json").read_text(encoding="utf-8"))
    assert record["num_items"] == len(items)


def test_golden_items_are_the_largest(plan: Written) -> None:
    ended = run(plan.path, "--local", "--verify").expect(0)
    assert "verified: 6 items equal the unsplit model's" in ended.out
