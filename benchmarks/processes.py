"""What the ranks of a running `edgelaunch PLAN --local` take, from /proc. Linux."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Figures", "LocalRun", "figures", "own_bytes", "ranks_of", "share_a_secret"]

PROC = Path("/proc")
LOOK_S = 0.2
PROGRESS = re.compile(r"^(\d+)(?: of \d+)? items, ")


@dataclass(frozen=True)
class Figures:
    """One process at one moment."""

    resident_bytes: int
    anonymous_bytes: int
    """What no file backs: heap, stacks, pages of libraries that were written to."""
    num_threads: int
    num_files: int


def share_a_secret() -> None:
    """For ranks in namespaces of their own, which this process starts."""
    os.environ.setdefault("EDGELAUNCH_SECRET", secrets.token_hex(32))


def figures(process: int) -> Figures | None:
    """None where the process has ended."""
    try:
        fields = dict(line.split(":", 1) for line in (PROC / str(process) / "status").read_text().splitlines())
        files = len(os.listdir(PROC / str(process) / "fd"))
    except OSError:
        return None
    if "RssAnon" not in fields:  # it is ending
        return None
    resident, anonymous = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))
    return Figures(resident, anonymous, int(fields["Threads"]), files)


def own_bytes(process: int) -> int | None:
    """Pages that no file backs; None where the process has ended.

    Not its proportional size: a library's pages count in full again when a process that shared them is killed.
    """
    try:
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith("Anonymous:")]
    return sizes[0] * 1024 if sizes else None


class LocalRun:
    """One run of `edgelaunch PLAN --local`, whose ranks are observed while it runs."""

    def __init__(self, plan: Path, *words: object) -> None:
        command = [sys.executable, "-m", "edgelaunch", str(plan), "--local", *map(str, words)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._errors: list[str] = []
        self.progress: list[tuple[float, int]] = []
        """When so many items were done, as the command says every few seconds; time.monotonic()."""
        self._texts: list[str] = []
        self._readers = [threading.Thread(target=self._read_progress), threading.Thread(target=self._read_results)]
        for reader in self._readers:
            reader.start()

    def samples(self, every_s: float) -> Iterator[tuple[float, dict[int, Figures]]]:
        """Time and each rank's figures, until the run ends. SystemExit, with what the command said, where it fails."""
        ranks: dict[int, int] = {}
        next_look = 0.0
        while self._process.poll() is None:
            now = time.monotonic()
            if now >= next_look:
                ranks, next_look = ranks_of(self._process.pid), now + LOOK_S
            found = {rank: figures(process) for rank, process in ranks.items()}
            yield now, {rank: seen for rank, seen in sorted(found.items()) if seen is not None}
            time.sleep(every_s)
        for reader in self._readers:
            reader.join()
        if self._process.returncode:
            raise SystemExit("".join(self._errors))

    @property
    def report(self) -> str:
        """What it printed, once it has ended."""
        return "".join(self._texts)

    def _read_progress(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line)
            if found := PROGRESS.match(line):
                self.progress.append((time.monotonic(), int(found[1])))

    def _read_results(self) -> None:
        assert self._process.stdout is not None
        self._texts.extend(self._process.stdout)


def ranks_of(parent: int) -> dict[int, int]:
    """The process of each rank that `parent` has started."""
    found = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if above == parent and b"--rank" in words:
                found[int(words[words.index(b"--rank") + 1])] = int(entry.name)
    return found
