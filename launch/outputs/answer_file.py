"""Writes answers to a .jsonl file, a line each as they come; an unfinished file can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgelaunch.outputs.partial_results import ROWS, Origin, Partial

__all__ = ["AnswerFile"]


class AnswerFile:
    """The lines are in the order in which the answers are complete; each has its request's id."""

    def __init__(self, path: Path, origin: Origin, *, resume: bool) -> None:
        """Raises UserError where the file cannot be written, or resumed."""
        if path.suffix.lower() != ".jsonl":
            raise UserError(f"{path}: answers are written as .jsonl: name such a file")
        try:
            self._partial = Partial(path, origin, resume=resume)
            rows = self._partial.folder / ROWS
            self._ids = _whole_lines(rows) if self._partial.resumes and rows.exists() else set()
            self._file = rows.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        self.num_lines = len(self._ids)

    def has(self, key: Any) -> bool:
        """Whether an earlier run has answered the request with this id."""
        return (type(key).__name__, key) in self._ids

    def add(self, values: dict[str, Any]) -> None:
        self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
        self._file.flush()
        self.num_lines += 1

    def finish(self) -> None:
        """Gives the file its own name."""
        self._file.close()
        self._partial.finish(ROWS)

    def close(self) -> None:
        """What is there stays for --resume."""
        self._file.close()
        self._partial.close()


def _whole_lines(path: Path) -> set[tuple[str, Any]]:
    """The ids of all lines; one that was half written is cut off."""
    ids: set[tuple[str, Any]] = set()
    good = 0
    with path.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                key = json.loads(line)["id"]
            except (ValueError, KeyError, TypeError):
                break
            ids.add((type(key).__name__, key))
            good += len(line)
        file.truncate(good)
    return ids
