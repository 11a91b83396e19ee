"""Answers are whole lines, whenever the run ended; a resumed run writes those that are missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecompile.contract.errors import UserError
from edgelaunch.outputs.answer_file import AnswerFile
from edgelaunch.outputs.partial_results import Origin, Partial

ROWS = [{"id": 1, "line": 4, "text": "Grüße 😀"}, {"id": "1", "line": 2, "text": "b\nc"}]
ORIGIN = Origin(plan="p", input={"path": "x.jsonl"})


def rows(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial") / "rows.jsonl"


def begun(path: Path) -> None:
    file = AnswerFile(path, ORIGIN, resume=False)
    for row in ROWS:
        file.add(row)
    file.close()


def test_an_answer_file_has_a_line_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "y.jsonl"
    path.write_text("older")
    file = AnswerFile(path, ORIGIN, resume=False)
    assert not file.has(4)
    file.add(ROWS[0])
    assert path.read_text() == "older"
    file.add(ROWS[1])
    file.finish()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    assert "Grüße 😀" in lines[0]
    assert not rows(path).parent.exists()


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"line": 3, "text": "a"}', b'{"id": 3}\n', b"nonsense\n", b"\xff\n", b"5\n"]
)
def test_a_torn_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "y.jsonl"
    begun(path)
    whole = rows(path).read_bytes()
    rows(path).write_bytes(whole + torn)
    file = AnswerFile(path, ORIGIN, resume=True)
    assert file.num_lines == 2
    assert [file.has(line) for line in (4, 2, 1, 3)] == [True, True, False, False]
    file.add({"line": 3})
    file.finish()
    assert path.read_bytes() == whole + b'{"line": 3}\n'


def test_without_resume_a_run_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "y.jsonl"
    begun(path)
    file = AnswerFile(path, ORIGIN, resume=False)
    assert not file.has(4)
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


@pytest.mark.parametrize("ending", ["close", "finish"])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, ending: str) -> None:
    """What the disk did not take is not raised again where the file is closed, nor where it is forgotten."""
    path = tmp_path / "y.jsonl"
    begun(path)
    file = AnswerFile(path, ORIGIN, resume=True)
    file._file.close()
    file._file = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - as on a full disk
    said = r"y\.jsonl: cannot be written: No space left on device$"
    with pytest.raises(UserError, match=said):
        file.add({"line": 3, "text": "a"})
    if ending == "finish":
        with pytest.raises(UserError, match=said):
            file.finish()
    file.close()
    assert [json.loads(line) for line in rows(path).read_text(encoding="utf-8").splitlines()] == ROWS


def test_a_record_that_does_not_fit_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing it once more writes what did not fit: that is no second error."""
    path, begin, opened = tmp_path / "y.jsonl", Partial._begin, list[Partial]()

    def full(self: Partial, origin: Origin | None) -> None:
        opened.append(self)
        self._lock.close()
        self._lock = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
        begin(self, origin)

    monkeypatch.setattr(Partial, "_begin", full)
    with pytest.raises(UserError, match=r"y\.jsonl: cannot be written: "):
        AnswerFile(path, ORIGIN, resume=False)
    assert opened[0]._lock.closed


OPTIONS = {"--temperature": 0.5, "--stop": None, "--raw": False}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--temperature": 0.7}, r"another --temperature \(0\.5\) than this run's \(0\.7\)"),
        ({"--stop": "é"}, r"another --stop \(none\) than this run's \(\"é\"\)"),
        ({"--raw": True}, r"another --raw \(false\) than this run's \(true\)"),
    ],
)
def test_answers_of_other_options_are_not_mixed(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "y.jsonl"
    AnswerFile(path, replace(ORIGIN, options=OPTIONS), resume=False).close()
    with pytest.raises(UserError, match=f"{said}, so --resume cannot continue it: give the same --"):
        AnswerFile(path, replace(ORIGIN, options=OPTIONS | changes), resume=True)
    AnswerFile(path, replace(ORIGIN, options=OPTIONS), resume=True).close()


def test_answers_of_a_version_that_kept_no_options_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "y.jsonl"
    begun(path)
    with pytest.raises(UserError, match=r"y\.jsonl\.partial: an earlier edgelaunch began it, .*leave out --resume"):
        AnswerFile(path, replace(ORIGIN, options=OPTIONS), resume=True)
