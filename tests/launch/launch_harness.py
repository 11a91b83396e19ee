"""Starts ranks as processes with a deadline; on failure every rank's output is in the message."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

DEADLINE_S = 60.0
NPY_HEADER_BYTES = 128
ERROR = re.compile(r"edgelaunch: error:|\S+ error +edgelaunch: ")
PROGRAM = (sys.executable, "-m", "edgelaunch")


@dataclass
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str

    def expect(self, code: int) -> Ended:
        assert self.code == code, f"exit {self.code}, not {code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        return self

    def expect_error(self, *parts: str) -> Ended:
        """Exit 2 and one line, with these parts in it."""
        self.expect(2)
        # a service's lines have time and level
        lines = [line for line in self.err.splitlines() if ERROR.match(line)]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err, self.err
        for part in parts:
            assert part in lines[0], f"{part!r} is not in {lines[0]!r}"
        return self


class Running:
    """A process that was started, in a process group of its own."""

    def __init__(self, arguments: Sequence[object], program: Sequence[str] = PROGRAM, **environ: str) -> None:
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - read after the process
        self._err: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
        self.process = subprocess.Popen(
            [*program, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err,
            env={**kept, **environ}, start_new_session=True, cwd=tempfile.gettempdir(),
        )  # fmt: skip

    def text(self) -> tuple[str, str]:
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read().decode())
        return texts[0], texts[1]

    def wait(self, deadline_s: float = DEADLINE_S) -> Ended:
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            out, err = self.text()
            raise AssertionError(f"still running after {deadline_s} s\n--- stdout\n{out}\n--- stderr\n{err}") from None
        return Ended(code, *self.text())

    def wait_for(self, text: str, deadline_s: float = DEADLINE_S) -> None:
        """Until `text` was printed."""
        deadline = time.monotonic() + deadline_s
        while text not in "".join(self.text()):
            assert self.process.poll() is None, f"ended before {text!r}: {self.text()}"
            assert time.monotonic() < deadline, f"no {text!r} in {deadline_s} s: {self.text()}"
            time.sleep(0.05)


def wait_for_results(running: Running, output: Path, count: int = 10, row_bytes: int = 16) -> None:
    """Until so many results of one output are written to a .npy, (4,) float32 each; rank 0 or its parent is running."""
    partial = output.with_name(f"{output.name}.partial") / "0.npy"
    deadline = time.monotonic() + DEADLINE_S
    while not partial.exists() or partial.stat().st_size < NPY_HEADER_BYTES + count * row_bytes:
        assert running.process.poll() is None, running.text()
        assert time.monotonic() < deadline, running.text()
        time.sleep(0.01)


def run(*arguments: object, deadline_s: float = DEADLINE_S, **environ: str) -> Ended:
    return Running(arguments, **environ).wait(deadline_s)


def run_ranks(commands: Sequence[Sequence[object]], deadline_s: float = DEADLINE_S) -> list[Ended]:
    """All at once; every rank's output is shown when one of them does not end."""
    started = [Running(command) for command in commands]
    return wait_all(started, deadline_s)


def wait_all(started: Sequence[Running], deadline_s: float = DEADLINE_S) -> list[Ended]:
    deadline = time.monotonic() + deadline_s
    while any(item.process.poll() is None for item in started) and time.monotonic() < deadline:
        time.sleep(0.02)
    stuck = [index for index, item in enumerate(started) if item.process.poll() is None]
    for index in stuck:
        os.killpg(started[index].process.pid, signal.SIGKILL)
        started[index].process.wait()
    ended = [item.wait() for item in started]
    everything = "\n".join(f"--- rank {index}\n{item.out}{item.err}" for index, item in enumerate(ended))
    assert not stuck, f"ranks {stuck} still ran after {deadline_s} s\n{everything}"
    return ended


def on_a_terminal(words: Sequence[object], stream: str, deadline_s: float = DEADLINE_S) -> tuple[int, str, bytes]:
    """Runs `edgelaunch WORDS` with this standard stream on a terminal: its status, what the other stream got (of
    `stdout` and `stderr`), and what the terminal got."""
    master, terminal = pty.openpty()
    other = "stderr" if stream == "stdout" else "stdout"
    command = [sys.executable, "-m", "edgelaunch", *map(str, words)]
    streams: dict[str, int] = {stream: terminal, other: subprocess.PIPE}
    process = subprocess.Popen(command, env=os.environ | {"TERM": "xterm"}, **streams)  # type: ignore[call-overload]
    os.close(terminal)
    seen, deadline = b"", time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:  # the other end is closed
                break
        elif process.poll() is not None:
            break
    os.close(master)
    with getattr(process, other) as pipe:
        told = pipe.read().decode()
    return process.wait(deadline_s), told, seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(plan: Path) -> list[int]:
    """Every process that names the plan on its command line: a rank or its parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(plan).encode() in words and state != "Z":
                found.append(int(entry.name))
    return found


def wait_gone(plan: Path, deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    while processes_of(plan):
        assert time.monotonic() < deadline, f"still there after {deadline_s} s: {processes_of(plan)}"
        time.sleep(0.05)


def rank_process(plan: Path, rank: int) -> int:
    """The process of one rank under --local."""
    for number in processes_of(plan):
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        if b"--rank" in words and words[words.index(b"--rank") + 1] == str(rank).encode():
            return number
    raise AssertionError(f"no process runs rank {rank}")
