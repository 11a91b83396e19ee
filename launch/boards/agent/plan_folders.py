"""The agent's files: a folder for each plan and each job, with names that it chooses or checks. Imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import IO

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256, replacing
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_run_plan
from edgelaunch.boards.plan_hashes import hashes_of

__all__ = ["PlanFolders", "default_folder"]

KEPT = 4
"""Plans and jobs that are kept, the newest."""
PIECE_BYTES = 1 << 20
SPARE_BYTES = 64 << 20


def default_folder() -> Path:
    """systemd's StateDirectory=, else the user's own folder for such."""
    if os.environ.get("STATE_DIRECTORY"):
        return Path(os.environ["STATE_DIRECTORY"].partition(":")[0])
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "edgelaunch"


class PlanFolders:
    def __init__(self, folder: Path) -> None:
        """Raises UserError where it cannot be made, or written to."""
        self._folder = folder
        try:
            for name in ("plans", "inputs", "jobs"):
                (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(f"the agent's folder cannot be made: {error.strerror}", key=str(folder),
                            fix="name another with --folder") from None  # fmt: skip

    def job(self, job: str) -> Path:
        """Made, and empty; older ones are removed."""
        shutil.rmtree(self._folder / "jobs" / job, ignore_errors=True)
        return self._made("jobs", job)

    def plan_path(self, sha256: str) -> Path:
        return self._folder / "plans" / sha256 / "plan.yaml"

    def keep_plan(self, sha256: str, body: IO[bytes], num_bytes: int) -> None:
        """Raises UserError where it is not a plan of this version, or has other bytes."""
        path = self.plan_path(sha256)
        self._made("plans", sha256)
        with replacing(path) as temporary:
            _receive(body, num_bytes, temporary, sha256)
            try:
                read_run_plan(temporary)
            except UserError as error:
                raise UserError(str(error).replace(str(temporary), "the plan")) from None

    def plan(self, sha256: str) -> Plan:
        """Raises UserError where it is not here."""
        path = self.plan_path(sha256)
        if not path.is_file():
            raise UserError("the plan is not here: send it first")
        return read_run_plan(path)

    def lacking(self, sha256: str) -> list[str]:
        """The sha256 of the files that rank 0 needs, or gives to others, and that are not here."""
        folder = self.plan_path(sha256).parent
        return sorted({wanted for name, wanted in hashes_of(self.plan(sha256)) if not _has(folder / name, wanted)})

    def keep_file(self, plan_sha256: str, sha256: str, body: IO[bytes], num_bytes: int) -> None:
        """Under the names that the plan has for it. Raises UserError where it has none, or the bytes are others."""
        folder = self.plan_path(plan_sha256).parent
        names = [name for name, wanted in hashes_of(self.plan(plan_sha256)) if wanted == sha256]
        if not names:
            raise UserError("the plan names no such file")
        self._check_space(num_bytes)
        first = folder / names[0]
        with replacing(first) as temporary:
            _receive(body, num_bytes, temporary, sha256)
        for name in names[1:]:
            with replacing(folder / name) as temporary:
                shutil.copyfile(first, temporary)

    def keep_input(self, sha256: str, name: str, body: IO[bytes], num_bytes: int) -> None:
        """`name`: checked; its ending says what it is."""
        self._check_space(num_bytes)
        folder = self._made("inputs", sha256)
        with replacing(folder / name) as temporary:
            _receive(body, num_bytes, temporary, sha256)

    def input(self, sha256: str, name: str) -> Path:
        """Raises UserError where it is not here."""
        path = self._folder / "inputs" / sha256 / name
        if not path.is_file():
            raise UserError("the input is not here: send it first")
        return path

    def _made(self, kind: str, name: str) -> Path:
        """Older ones are removed. Others may do the same at once: boards can have their homes on one server, and two
        ranks may be on one machine."""
        folder = self._folder / kind / name
        if not folder.is_dir():
            others = sorted((path for path in folder.parent.iterdir() if path != folder), key=_changed)
            for old in others[: -(KEPT - 1)]:
                shutil.rmtree(old, ignore_errors=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _check_space(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if num_bytes + SPARE_BYTES > free:
            raise UserError(f"there is no room for {num_bytes} bytes on this board: {free} are free")


def _changed(path: Path) -> float:
    with contextlib.suppress(OSError):  # another process has just removed it
        return path.stat().st_mtime
    return 0.0


def _has(path: Path, sha256: str) -> bool:
    with contextlib.suppress(OSError):
        return file_sha256(path) == sha256
    return False


def _receive(body: IO[bytes], num_bytes: int, path: Path, sha256: str) -> None:
    """Raises UserError where fewer bytes come, or others."""
    digest, left = hashlib.sha256(), num_bytes
    with open(path, "wb") as file:
        while left:
            piece = body.read(min(PIECE_BYTES, left))
            if not piece:
                raise UserError("the file did not come whole")
            digest.update(piece)
            file.write(piece)
            left -= len(piece)
    if digest.hexdigest() != sha256:
        raise UserError("the file has another sha256 than was said")
