"""The ranks that run on this machine, and the state of those that are rank 0: files in a folder of this user alone.

A rank writes `NAME.json`, which says what it is. Whoever wants to see its run touches `NAME.watch` now and then, and
rank 0 writes `NAME.state` as long as that is fresh. So nobody can hold a run up, however slow or many they are, and a
run in a network namespace, or of a rank alone, is seen like any other. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from edgelaunch.control.core.membership import Process
from edgelaunch.control.pipeline_state import PipelineState
from edgelaunch.control.process_checks import has_ended, own_process

__all__ = ["RunHere", "announce", "runs_here"]

FRESH_S = 3.0
"""So long rank 0 writes after it was last asked."""


@dataclass(frozen=True, kw_only=True)
class RunHere:
    """A rank's process on this machine."""

    process: Process
    rank: int
    plan: str
    """Where its plan is."""
    plan_sha256: str
    model: str
    master: str
    """ADDRESS:PORT of rank 0's store."""
    began: float
    """Seconds since 1970."""

    @property
    def ended(self) -> bool:
        return has_ended(self.process)

    def ask(self) -> None:
        """For its state, for some seconds. Raises OSError where the folder cannot be written."""
        _file(self.process, "watch").touch()

    def state(self) -> PipelineState | None:
        """As of the last time that it was written; None before."""
        try:
            text = _file(self.process, "state").read_text(encoding="utf-8")
        except OSError:
            return None
        return PipelineState.from_json(text)

    # --- rank 0's side -----------------------------------------------------------------------------------------------

    @property
    def is_asked(self) -> bool:
        try:
            return time.time() - _file(self.process, "watch").stat().st_mtime < FRESH_S
        except OSError:
            return False

    def write_state(self, text: str) -> None:
        """Whole or not at all. Raises OSError where it cannot be written."""
        _write(_file(self.process, "state"), text)

    def remove(self) -> None:
        for kind in ("json", "watch", "state", "new"):
            with contextlib.suppress(OSError):
                _file(self.process, kind).unlink(missing_ok=True)


def announce(*, rank: int, plan: Path, plan_sha256: str, model: str, master: str) -> RunHere | None:
    """This process as a rank, until it ends; None where there is no folder that is this user's alone."""
    run = RunHere(process=own_process(), rank=rank, plan=str(plan.resolve()), plan_sha256=plan_sha256, model=model,
                  master=master, began=time.time())  # fmt: skip
    try:
        folder = _folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(folder):
            return None
        for _ in _runs(folder):  # removes what processes left that were killed
            pass
        _write(_file(run.process, "json"), json.dumps(asdict(run)))
    except OSError:
        return None
    return run


def runs_here() -> list[RunHere]:
    """Those of this user, the oldest first."""
    folder = _folder()
    return sorted(_runs(folder), key=lambda run: run.began) if _is_ours(folder) else []


def _runs(folder: Path) -> Iterator[RunHere]:
    for path in folder.glob("*.json"):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            run = RunHere(**{**values, "process": Process.read(values["process"])})
        except (KeyError, OSError, TypeError, ValueError):
            continue
        if run.process.machine != own_process().machine:  # of another container, where its number says nothing
            continue
        if run.ended:
            run.remove()
        else:
            yield run


def _folder() -> Path:
    """The same for each process of this user, whatever its environment says."""
    user = os.getuid()
    runtime = Path(f"/run/user/{user}")
    return runtime / "edgelaunch" if _is_ours(runtime) else Path(tempfile.gettempdir()) / f"edgelaunch-{user}"


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder that nobody else can write into, or look at."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _file(process: Process, kind: str) -> Path:
    return _folder() / f"{process.number}-{process.started}.{kind}"


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
