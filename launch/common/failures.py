"""Failure: the first cause that ended a run, as reported to the other ranks and the user."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.process.limits import local_shortage
from edgelaunch.process.missing_packages import explain_import
from edgelaunch.process.stopping import ToldToStop

__all__ = [
    "EXIT_CODES",
    "Abandoned",
    "AlreadyRunningError",
    "Failure",
    "FailureKind",
    "FailureBox",
    "NamedRankError",
    "PeerLostError",
    "RankFailedError",
    "TooLateError",
    "exit_code",
    "failure_words",
    "link_name",
    "rank_name",
    "rank_title",
]


class FailureKind(str, Enum):
    USER = "user"
    """An error that the user can fix."""
    LOST = "lost"
    """A rank is gone."""
    LATE = "late"
    """The run was over before it had joined."""
    BUG = "bug"
    INTERRUPTED = "interrupted"
    """By Ctrl-C, which ends the run."""
    LEFT = "left"
    """It was told to stop, and the others continue."""


EXIT_CODES = {
    FailureKind.USER: 2, FailureKind.LOST: 2, FailureKind.LATE: 2, FailureKind.BUG: 1, FailureKind.INTERRUPTED: 130,
    FailureKind.LEFT: 143,
}  # fmt: skip


class Abandoned(Exception):
    """No error: the epoch was given up, and whoever waits in it ends quietly."""


class PeerLostError(Exception):
    """The connection to another rank broke; `rank` is that rank."""

    def __init__(self, rank: int, reason: str) -> None:
        super().__init__(reason)
        self.rank = rank


class NamedRankError(UserError):
    """An error of one rank, whose message names the rank."""


class AlreadyRunningError(NamedRankError):
    """This rank runs elsewhere: an error of this process alone, which must not end the others."""


class TooLateError(UserError):
    """The run was over before this rank had joined it: no failure of the run."""


class RankFailedError(RuntimeError):
    """A rank of a pipeline that the Python API runs has failed; the message names the rank and its host."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a rank ended."""

    rank: int
    kind: FailureKind
    message: str
    trace: str = ""
    private: bool = False
    """The other ranks continue and are not told."""
    named: bool = True
    """The message names the rank."""
    signal: str = ""
    """Which told it to stop."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Failure:
        return Failure.read(json.loads(text))

    @staticmethod
    def read(values: dict[str, Any]) -> Failure:
        return Failure(**{**values, "kind": FailureKind(values["kind"])})

    @staticmethod
    def unreachable(message: str, trace: str = "") -> Failure:
        """Rank 0's store is lost, or the way to it: a rank cannot report it, and ends by itself."""
        return Failure(rank=0, kind=FailureKind.LOST, message=message, trace=trace, private=True)

    @staticmethod
    def stopped(rank: int, stop: KeyboardInterrupt) -> Failure:
        """Of a rank that was interrupted. A rank that is told to stop leaves; without rank 0 there is no run."""
        if not isinstance(stop, ToldToStop):
            return Failure(rank=rank, kind=FailureKind.INTERRUPTED, message="was stopped by Ctrl-C", named=False)
        if rank == 0:
            return Failure(
                rank=rank, kind=FailureKind.INTERRUPTED, message=f"was told to stop ({stop.name})", named=False
            )
        message = f"was told to stop ({stop.name}), and left"
        kind = FailureKind.LEFT
        return Failure(rank=rank, kind=kind, message=message, private=True, named=False, signal=stop.name)

    @staticmethod
    def of(rank: int, error: BaseException) -> Failure:
        """Classifies an exception that `rank` raised."""
        if isinstance(error, UserError):
            private = isinstance(error, (AlreadyRunningError, TooLateError))
            kind = FailureKind.LATE if isinstance(error, TooLateError) else FailureKind.USER
            named = isinstance(error, NamedRankError)
            return Failure(rank=rank, kind=kind, message=str(error), private=private, named=named)
        if (message := local_shortage(error) or explain_import(error)) is not None:
            return Failure(rank=rank, kind=FailureKind.USER, message=message, named=False)
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        lines = str(error).strip().splitlines()
        # TorchScript puts the Python error on the last line, under the interpreter's own traceback
        reason = (lines[-1] if "Traceback of TorchScript" in str(error) else lines[0]) if lines else ""
        return Failure(
            rank=rank, kind=FailureKind.BUG, message=f"{type(error).__name__}: {reason}", trace=trace, named=False
        )


class FailureBox:
    """Keeps the first failure of this process; any thread may put one in, the main thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._news = False
        self._failure: Failure | None = None
        self._finished = False
        self.parting = False
        """All results are there, and ranks end one after the other: a connection that breaks now is not a failure."""

    def put(self, failure: Failure) -> None:
        with self._changed:
            if not self.parting:
                self._failure = self._failure or failure
            self._changed.notify_all()

    def finish(self) -> None:
        """The run is complete, and this rank may end."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Something happened that the main thread should look at."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    @property
    def failure(self) -> Failure | None:
        return self._failure

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def ended(self) -> bool:
        return self._finished or self._failure is not None

    def wait(self, timeout_s: float) -> None:
        """Until something was put in, the run is complete or `wake` was called, at most `timeout_s`."""
        with self._changed:
            if not self.ended and not self._news:
                self._changed.wait(timeout_s)
            self._news = False


def exit_code(failure: Failure) -> int:
    return EXIT_CODES[failure.kind]


def failure_words(plan: Plan, failure: Failure) -> str:
    """The message, after the rank's name unless it has that."""
    return failure.message if failure.named else f"{rank_name(plan, failure.rank)}: {failure.message}"


def rank_name(plan: Plan, rank: int) -> str:
    """`rank 2 (pi-3)`: how every message names a rank."""
    return f"rank {rank} ({plan.hosts[rank].name})" if 0 <= rank < len(plan.hosts) else f"rank {rank}"


def link_name(plan: Plan, ranks: Iterable[int]) -> str:
    """`the link between rank 1 (pi-2) and rank 2 (pi-3)`."""
    first, second = sorted(ranks)
    return f"the link between {rank_name(plan, first)} and {rank_name(plan, second)}"


def rank_title(plan: Plan, rank: int) -> str:
    """`rank 2 (pi-3, units 40-71)`: for messages about a rank that is lost."""
    stage = plan.stage_of_rank(rank)
    if stage is None:
        return rank_name(plan, rank)
    return f"rank {rank} ({plan.hosts[rank].name}, units {stage.units[0]}-{stage.units[1]})"
