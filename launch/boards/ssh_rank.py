"""A rank on another machine, started by OpenSSH's own program: no agent, and no secret that anybody keeps.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgelaunch.boards.job_orders import JobNews, JobOrder
from edgelaunch.boards.signed_requests import sha256_of
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.common.software import PROTOCOL

__all__ = ["SshRank", "check_ssh", "opening"]

OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5",
           "-o", "ServerAliveCountMax=3")  # fmt: skip
"""No terminal and no questions: a board that wants a password is named, and what to do."""
UNREACHABLE = 255
NO_PROGRAM = (126, 127)
END_S = 5.0


def check_ssh() -> None:
    """Raises UserError where there is no such program."""
    if shutil.which("ssh") is None:
        raise UserError("--ssh needs the program ssh, which is not on the PATH: install openssh-client")


def opening(order: JobOrder, plan: str, secret: str) -> bytes:
    """The line that the rank's side reads first."""
    order = replace(order, plan_sha256=sha256_of(plan.encode()))
    line = {"protocol": PROTOCOL, "order": order.to_json().decode(), "plan": plan, "secret": secret}
    return json.dumps(line).encode() + b"\n"


class SshRank:
    def __init__(
        self, order: JobOrder, plan_path: Path, *, login: str, program: str, secret: str, tell: Callable[[str], None]
    ) -> None:
        """`login`: USER@ADDRESS. `program`: edgelaunch there. `secret`: of this run. `tell`: takes our own lines."""
        self.order, self._path, self._login, self._program = order, plan_path, login, program
        self._secret, self._tell = secret, tell
        self._process: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()

    def prepare(self) -> None:
        """Nothing: the plan goes along."""

    def run(self, print: Callable[[str, str], None]) -> Failure | None:
        starts_left = self.order.restarts + 1
        while True:
            starts_left -= 1
            news, came = self._once(print)
            if news is not None or self._over.is_set():
                return news.failure if news is not None else None
            if not came or not starts_left:
                return Failure(rank=self.order.rank, kind=FailureKind.LOST if came else FailureKind.USER, named=False,
                               message=f"the connection by ssh to {self._login} broke")  # fmt: skip
            self._tell(f"the connection by ssh to {self._login} broke: starting its rank again")

    def end(self) -> None:
        """The end of its input ends the rank."""
        self._over.set()
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.terminate()

    def _once(self, print: Callable[[str, str], None]) -> tuple[JobNews | None, bool]:
        """The last news, or None where the connection broke; whether any came. Raises UserError where none can."""
        words = ["ssh", *OPTIONS, self._login, shlex.join([*shlex.split(self._program), "agent", "--stdio"])]
        process = self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        said: list[str] = []
        errors = threading.Thread(target=self._read_errors, args=(process, said), daemon=True)
        errors.start()
        came = False
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.write(opening(self.order, self._path.read_text(encoding="utf-8"), self._secret))
            process.stdin.flush()
        for line in process.stdout:
            try:
                news = JobNews.read(line)
            except UserError:
                said.append(line.decode("utf-8", "replace"))
                continue
            came = True
            for stream, text in news.entries:
                print(stream, text)
            if news.ended:
                self.end()
                return news, True
        code = process.wait()
        errors.join(1.0)
        if not came and not self._over.is_set():
            raise self._why(code, said)
        return None, came

    def _why(self, code: int, said: list[str]) -> UserError:
        words = " ".join(" ".join(said).split())[-300:] or f"status {code}"
        if code in NO_PROGRAM:
            return UserError(f"ssh {self._login}: {self._program} is not there ({words})",
                             fix="name it with --ssh-program PATH")  # fmt: skip
        fix = f"check that ssh {self._login} works without a password (ssh-copy-id)" if code == UNREACHABLE else None
        return UserError(f"ssh {self._login}: {words}", fix=fix)

    def _read_errors(self, process: subprocess.Popen[bytes], said: list[str]) -> None:
        for line in process.stderr or ():
            said.append(line.decode("utf-8", "replace"))
            del said[:-20]
