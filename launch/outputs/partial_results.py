"""PATH.partial: the results of an unfinished run, kept on disk for --resume."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.files.user_files import printable
from edgecompile.contract.plan import Plan
from edgelaunch.inputs.folders import find_images
from edgelaunch.process.stderr import say_last
from edgelaunch.request.run_request import RunRequest

__all__ = [
    "ROWS",
    "WHOLE",
    "Origin",
    "Partial",
    "check_partial",
    "left_behind",
    "origin_of",
    "partial_folder",
    "say_left_behind",
]

RECORD = "run.json"
MARK = "partial results of edgelaunch"
"""Marks our record: a folder without it was not made by edgelaunch, and nothing in it is touched."""
VERSION = 1
MAX_RECORD = 1 << 20
ROWS, WHOLE = "rows.jsonl", "all.npz"
OURS = re.compile(rf"{re.escape(ROWS)}|{re.escape(WHOLE)}|[0-9]+\.npy")
"""The files, beside the record, that we write there."""


@dataclass(frozen=True)
class Origin:
    """Where results come from: a run can resume them only if this is the same again."""

    plan: str
    """The plan's sha256."""
    input: Mapping[str, Any] | None
    """What tells the input from others; None where it does not come again: standard input, or items at a rate."""
    options: Mapping[str, Any] | None = None
    """By name, those of which the results depend, as JSON has them; None: on none."""


def origin_of(plan: Plan, request: RunRequest) -> Origin:
    """The origin of a run's results. A folder's is the list of its images."""
    sha256 = file_sha256(request.plan_path)
    if request.live:
        return Origin(sha256, None)
    if request.input is None:
        return Origin(sha256, {"golden": plan.golden.sha256})
    path = request.input.resolve()
    return Origin(sha256, {"path": str(path), **_facts(path)})


def _facts(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        facts = path.stat()
        return {"bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}
    digest = hashlib.sha256()
    for file in find_images(path).files:
        digest.update(os.fsencode(file.relative_to(path)))
        with suppress(OSError):  # a link to nothing: an item that cannot be read
            facts = file.stat()
            digest.update(f"\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return {"files": digest.hexdigest()}


class Partial:
    """The folder of one output; no other process writes into it at the same time."""

    def __init__(self, path: Path, origin: Origin | None, *, resume: bool) -> None:
        """Opens or makes the folder. Without `resume`, what an earlier run left in it is dropped.

        Raises:
            UserError: another run writes there, the folder is not ours, or `resume` and what is there comes from
                another plan or input, or of other options.
            OSError: it cannot be written.
        """
        self.path, self.folder = path, partial_folder(path)
        self.resumable = origin is not None and origin.input is not None
        check_partial(path)
        self.folder.mkdir(exist_ok=True)
        self._lock = open(  # noqa: SIM115 - locked as long as we live
            self.folder / RECORD, "a+", encoding="utf-8", errors="replace", opener=_not_through_links
        )
        try:
            self.resumes = self._open(origin, resume=resume)
        except BaseException:
            self.close()
            raise

    def _open(self, origin: Origin | None, *, resume: bool) -> bool:
        """Whether an earlier run is resumed."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{self.path}: another run writes this output: wait for it, or name another file") from None
        self._lock.seek(0)
        text = self._lock.read(MAX_RECORD)
        resumes = resume and self._check(text, origin)
        if not resumes:
            self._begin(origin)
        return resumes

    def _check(self, text: str, origin: Origin | None) -> bool:
        """Whether there is something to resume."""
        record = _record(text)  # empty where the run ended before it had written this
        assert origin is not None
        if record.get("version") != VERSION or record.get("input") is None:
            return False
        for key, wanted in (("plan", origin.plan), ("input", origin.input)):
            if record.get(key) != wanted:
                raise UserError(
                    f"{self.folder}: holds results of another {key} than this run's, so --resume cannot continue it: "
                    f"give the same {key}, or leave out --resume to start over"
                )
        if origin.options is not None:
            self._check_options(record.get("options"), origin.options)
        return True

    def _check_options(self, earlier: Any, wanted: Mapping[str, Any]) -> None:
        if not isinstance(earlier, dict):
            raise UserError(
                f"{self.folder}: an earlier edgelaunch began it, which did not keep the options of its answers: finish "
                "it with that one, or leave out --resume to start over"
            )
        for name, value in wanted.items():
            if earlier.get(name) != value:
                raise UserError(
                    f"{self.folder}: holds answers with another {name} ({_shown(earlier.get(name))}) than this run's "
                    f"({_shown(value)}), so --resume cannot continue it: give the same {name}, or leave out --resume "
                    "to start over"
                )

    def _begin(self, origin: Origin | None) -> None:
        for file in _our_files(self.folder):
            file.unlink()
        record = {
            "what": MARK, "version": VERSION, "plan": origin.plan if origin else "",
            "input": origin.input if origin else None,
        }  # fmt: skip
        if origin is not None and origin.options is not None:
            record["options"] = dict(origin.options)
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(json.dumps(record) + "\n")
        self._lock.flush()

    def finish(self, file: str) -> None:
        """Gives a file of the folder the output's own name; the folder is gone then."""
        os.replace(self.folder / file, self.path)
        self.remove()

    def remove(self) -> None:
        _remove(self.folder)
        self.close()

    def close(self) -> None:
        with suppress(OSError):  # where the disk is full, what it did not take is tried again
            self._lock.close()


def _shown(value: Any) -> str:
    return "none" if value is None else printable(json.dumps(value, ensure_ascii=False))


def partial_folder(path: Path) -> Path:
    """Where the results of an output are until they are complete."""
    return path.with_name(f"{path.name}.partial")


def check_partial(path: Path) -> None:
    """Before anything is written for the output PATH.

    Raises:
        UserError: what bears the folder's name is a link, no folder, or a folder without our mark.
    """
    folder = partial_folder(path)
    if not os.path.lexists(folder):
        return
    names = [] if folder.is_symlink() or not folder.is_dir() else os.listdir(folder)
    good = not folder.is_symlink() and folder.is_dir() and not any((folder / name).is_symlink() for name in names)
    if good and names == [RECORD] and (folder / RECORD).is_file() and not (folder / RECORD).stat().st_size:
        return  # a run was killed before it had written the record
    if not good or (names and not _is_ours(folder)):
        raise UserError(
            f"{folder}: was not made by edgelaunch, and results are kept there until {path.name} is complete: move it, "
            "or name another --output"
        )


def _is_ours(folder: Path) -> bool:
    try:
        with open(folder / RECORD, encoding="utf-8", errors="replace", opener=_not_through_links) as file:
            return _record(file.read(MAX_RECORD)).get("what") == MARK
    except OSError:
        return False


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _our_files(folder: Path) -> list[Path]:
    return [folder / name for name in os.listdir(folder) if OURS.fullmatch(name)]


def _remove(folder: Path) -> None:
    """Deletes our files; other files stay, and the mark with them."""
    with suppress(OSError):
        for file in _our_files(folder):
            file.unlink()
        if os.listdir(folder) == [RECORD]:
            (folder / RECORD).unlink()
            folder.rmdir()


def _record(text: str) -> dict[str, Any]:
    """Empty where the text is none."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def left_behind(path: Path) -> str | None:
    """After a run that was not complete: what to do with its results, in one line.

    Removes them, and says nothing, where no run could resume them.
    """
    folder = partial_folder(path)
    try:
        with open(folder / RECORD, encoding="utf-8", errors="replace", opener=_not_through_links) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = file.read(MAX_RECORD)
        record = _record(text)
        if folder.is_symlink() or (text and record.get("what") != MARK):
            return None
        if record.get("input") is not None:
            return f"the results so far are in {folder}: continue with --resume"
        _remove(folder)
    except OSError:
        pass  # there is none, or another run has taken it over
    return None


def say_left_behind(output: Path | None) -> None:
    """Once no rank is running: tells where the results of an incomplete output are."""
    told = left_behind(output) if output is not None else None
    if told is not None:
        say_last(told, event="left_behind", folder=str(output))
