"""A job of an agent: one rank as a child process, started again when it dies; or edgeprofile. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgelaunch.boards.across_machines import AcrossMachines
from edgelaunch.boards.agent.job_log import JobLog
from edgelaunch.boards.agent.plan_folders import PlanFolders
from edgelaunch.boards.board_facts import own_facts
from edgelaunch.boards.job_orders import FILE_NAME, JobKind, JobOrder
from edgelaunch.common.addresses import read_address
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.local.local_run import Children

__all__ = ["LEASE_S", "Job"]

LEASE_S = 30.0
"""After so long without a word of the caller a job is ended: its rank would wait for others for ever."""
POLL_S = 0.05
GRACE_S = 4.0
RECORD = "run.json"
PROFILE = "from edgecompile.commands.entry_points import profile_main; raise SystemExit(profile_main())"


class Job:
    """From its start to its end in a thread of its own; `log` tells what is going on."""

    def __init__(
        self, order: JobOrder, folders: PlanFolders, secret_file: Path | None, caller: str, tell: Callable[[str], None]
    ) -> None:
        """`caller`: who asked, for others to read. `tell`: takes the agent's own lines.

        `secret_file`: None: the secret is in the environment.

        Raises:
            UserError: the plan or the input is not here, or the options do not go together.
        """
        self.order, self.caller, self.begun_s = order, caller, time.monotonic()
        self.log = JobLog()
        self.folder = folders.job(order.job)
        self._secret_file, self._tell = secret_file, tell
        self._stop = threading.Event()
        self._heard_s = time.monotonic()
        self._work = self._profile if order.kind is JobKind.PROFILE else self._rank_work(folders)
        self._thread = threading.Thread(target=self._run, name="job", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def describe(self) -> str:
        """In words, for who asks as well."""
        if self.order.kind is JobKind.PROFILE:
            what = f"profiling {', '.join(self.order.models)}"
        else:
            what = f"rank {self.order.rank} of a {'run' if self.order.kind is JobKind.RUN else 'link test'}"
        return f"{what} that {self.caller} started {time.monotonic() - self.begun_s:.0f} s ago"

    def hear(self) -> None:
        """The caller is there."""
        self._heard_s = time.monotonic()

    def end(self) -> None:
        """Returns once nothing of it runs."""
        self._stop.set()
        self._thread.join()

    def file(self, name: str) -> Path:
        """Raises UserError where the job left no such file."""
        path = self.folder / name
        if not FILE_NAME.fullmatch(name) or not path.is_file() or path.is_symlink():
            raise UserError("the job left no such file")
        return path

    def _run(self) -> None:
        failure: Failure | None = None
        try:
            failure = self._work()
        except Exception as error:
            failure = Failure.of(self.order.rank, error)
        files = sorted(path.name for path in self.folder.iterdir() if FILE_NAME.fullmatch(path.name))
        self._tell(f"{self.describe()}: {'done' if failure is None else failure.message}")
        self.log.end(failure, files)

    def _over(self) -> bool:
        """Whether it is to end early: it was said so, or the caller is gone."""
        if self._stop.wait(POLL_S):
            return True
        if time.monotonic() - self._heard_s > LEASE_S:
            self.log.add("err", f"edgelaunch: no word of the caller for {LEASE_S:.0f} s: ending\n")
            return True
        return False

    # --- a rank ------------------------------------------------------------------------------------------------------

    def _rank_work(self, folders: PlanFolders) -> Callable[[], Failure | None]:
        order = self.order
        plan, path = folders.plan(order.plan_sha256), folders.plan_path(order.plan_sha256)
        if order.rank >= len(plan.hosts):
            raise UserError(f"rank {order.rank} is out of range: the plan has {len(plan.hosts)} ranks")
        given = folders.input(order.input_sha256, order.input_name) if order.input_name else None
        output = self.folder / order.output_name if order.output_name else None
        request = order.request(path, given, output, self.folder / RECORD)
        master = read_address("master", order.master) if order.master else None
        place = AcrossMachines(master, order.threads)
        request = replace(request, secret_file=self._secret_file)

        def work() -> Failure | None:
            children = Children(plan, request, place, restarts=order.restarts, relay=self.log.add)
            children.start(order.rank)
            try:
                while not children.all_done():
                    running = children.any_running()  # before the look that starts again what has ended
                    if (failure := children.first_failure()) is not None:
                        children.drain(1.0)
                        return children.first_failure() or failure
                    if not running and not children.any_running():
                        return None  # it left by itself: the others continue
                    if self._over():
                        break
                return None
            finally:
                children.end(0.0)
                children.drain(GRACE_S)

        return work

    # --- edgeprofile -------------------------------------------------------------------------------------------------

    def _profile(self) -> Failure | None:
        kind = own_facts("").kind
        for group, text in (("devices", f"defaults:\n  - /board@{kind}: {kind}\n"),
                            ("hosts", f"members:\n  board: {{device: {kind}}}\n")):  # fmt: skip
            option = self.folder / "conf" / group / "board.yaml"
            option.parent.mkdir(parents=True)
            option.write_text(text, encoding="utf-8")
        for model in self.order.models:
            words = ["--config-dir", str(self.folder / "conf"), "devices=board", f"model={model}",
                     f"profile.folder={self.folder}"]  # fmt: skip
            child = subprocess.Popen(
                [sys.executable, "-c", PROFILE, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, cwd=self.folder, env=dict(os.environ), start_new_session=True,
            )  # fmt: skip
            relay = threading.Thread(target=self._relay, args=(child,), daemon=True)
            relay.start()
            while child.poll() is None:
                if self._over():
                    child.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(GRACE_S)
                    child.kill()
                    break
            relay.join(1.0)
            if child.wait():
                message = f"edgeprofile of {model} ended with status {child.returncode}"
                return Failure(rank=0, kind=FailureKind.USER, message=message)
        return None

    def _relay(self, child: subprocess.Popen[bytes]) -> None:
        for line in child.stdout or ():
            self.log.add("err", line.decode("utf-8", "replace"))
