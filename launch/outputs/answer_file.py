"""Writes answers to a .jsonl file, a line each as they come; an unfinished file can be resumed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgelaunch.outputs.partial_results import ROWS, Origin, Partial

__all__ = ["AnswerFile"]


class AnswerFile:
    """The lines are in the order in which the answers are complete; each has the number of its request's line."""

    def __init__(self, path: Path, origin: Origin, *, resume: bool) -> None:
        """Raises UserError where the file cannot be written, or resumed."""
        if path.suffix.lower() != ".jsonl":
            raise UserError(f"{path}: answers are written as .jsonl: name such a file")
        try:
            self._partial = Partial(path, origin, resume=resume)
            rows = self._partial.folder / ROWS
            self._answered = _whole_lines(rows) if self._partial.resumes and rows.exists() else set()
            self._file = rows.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        self.num_lines = len(self._answered)

    def has(self, line: int) -> bool:
        """Whether an earlier run has answered the request of this line."""
        return line in self._answered

    def add(self, values: dict[str, Any]) -> None:
        """Raises UserError where the disk is full."""
        try:
            self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from None
        self.num_lines += 1

    def finish(self) -> None:
        """Gives the file its own name. Raises UserError where it cannot have it."""
        try:
            self._file.close()
            self._partial.finish(ROWS)
        except OSError as error:
            raise self._cannot_write(error) from None

    def close(self) -> None:
        """What is there stays for --resume."""
        with contextlib.suppress(OSError):  # the disk may be full: what is lost is computed again
            self._file.close()
        self._partial.close()

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(f"{self._partial.path}: cannot be written: {error.strerror or error}")


def _whole_lines(path: Path) -> set[int]:
    """The numbers of the lines that have an answer or an error; one that was half written is cut off."""
    answered: set[int] = set()
    good = 0
    with path.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                answered.add(int(json.loads(line)["line"]))
            except (ValueError, KeyError, TypeError):
                break
            good += len(line)
        file.truncate(good)
    return answered
