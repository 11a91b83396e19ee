"""Answers are whole lines, whenever the run ended; a resumed run writes those that are missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecompile.contract.errors import UserError
from edgelaunch.outputs.answer_file import AnswerFile
from edgelaunch.outputs.partial_results import Origin

ORIGIN = Origin(plan="p", input={"path": "x.jsonl"})


def rows(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial") / "rows.jsonl"


def begun(path: Path) -> None:
    file = AnswerFile(path, ORIGIN, resume=False)
    file.add({"id": 1, "text": "Grüße 😀"})
    file.add({"id": "1", "text": "b\nc"})
    file.close()


def test_an_answer_file_has_a_line_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "y.jsonl"
    path.write_text("older")
    file = AnswerFile(path, ORIGIN, resume=False)
    assert not file.has(1)
    file.add({"id": 1, "text": "Grüße 😀"})
    assert path.read_text() == "older"
    file.add({"id": "1", "text": "b\nc"})
    file.finish()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"id": 1, "text": "Grüße 😀"}, {"id": "1", "text": "b\nc"}]
    assert "Grüße 😀" in lines[0]
    assert not rows(path).parent.exists()


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"id": 3, "text": "a"}', b'{"text": 3}\n', b"nonsense\n", b"\xff\n", b"5\n"]
)
def test_a_torn_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "y.jsonl"
    begun(path)
    whole = rows(path).read_bytes()
    rows(path).write_bytes(whole + torn)
    file = AnswerFile(path, ORIGIN, resume=True)
    assert file.num_lines == 2
    assert [file.has(key) for key in (1, "1", 3, "3")] == [True, True, False, False]
    file.add({"id": 3})
    file.finish()
    assert path.read_bytes() == whole + b'{"id": 3}\n'


def test_without_resume_a_run_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "y.jsonl"
    begun(path)
    file = AnswerFile(path, ORIGIN, resume=False)
    assert not file.has(1)
    file.finish()
    assert path.read_bytes() == b""


def test_what_is_not_there_is_resumed_from_the_beginning(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "y.jsonl", ORIGIN, resume=True)
    assert file.num_lines == 0
    file.finish()


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answers are written as \.jsonl"):
        AnswerFile(tmp_path / "y.npz", ORIGIN, resume=False)
    with pytest.raises(UserError, match="cannot be written"):
        AnswerFile(tmp_path / "none" / "y.jsonl", ORIGIN, resume=False)
    begun(tmp_path / "y.jsonl")
    with pytest.raises(UserError, match="holds results of another plan"):
        AnswerFile(tmp_path / "y.jsonl", Origin(plan="q", input={"path": "x.jsonl"}), resume=True)
    file = AnswerFile(tmp_path / "y.jsonl", ORIGIN, resume=True)
    with pytest.raises(UserError, match="another run writes this output"):
        AnswerFile(tmp_path / "y.jsonl", ORIGIN, resume=True)
    file.close()
