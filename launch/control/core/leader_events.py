"""Events and actions of `leader.step`: what rank 0 hears, and what it does."""

from __future__ import annotations

from dataclasses import dataclass

from edgelaunch.control.core.membership import Beat, Hello, Leave, Suspicion
from edgelaunch.control.core.roster import Answer
from edgelaunch.control.core.run_events import Cause, RunEvent

__all__ = [
    "Action",
    "Actions",
    "Announce",
    "BeatCame",
    "Begin",
    "ByeCame",
    "Closing",
    "EndRun",
    "Event",
    "FinishRun",
    "Halt",
    "HelloCame",
    "LeaveCame",
    "Looked",
    "OwnLinks",
    "Publish",
    "Report",
    "RequestKill",
    "SignCame",
    "StoodStill",
    "StoreAnswered",
    "StreamEnded",
    "SummaryCame",
    "SuspicionCame",
    "Tick",
]

# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HelloCame:
    at: float
    hello: Hello


@dataclass(frozen=True, slots=True)
class LeaveCame:
    at: float
    leave: Leave


@dataclass(frozen=True, slots=True)
class SuspicionCame:
    at: float
    suspicion: Suspicion


@dataclass(frozen=True, slots=True)
class BeatCame:
    at: float
    rank: int
    beat: Beat


@dataclass(frozen=True, slots=True)
class SignCame:
    """A rank's process wrote over its link to rank 0, at `signed`."""

    rank: int
    link: str
    signed: float
    more_s: float


@dataclass(frozen=True, slots=True)
class OwnLinks:
    """Those whose links to rank 0 do not carry have changed, by their identity on links."""

    link: str
    """Rank 0's own."""
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """All heartbeats that are there have been read."""

    at: float


@dataclass(frozen=True, slots=True)
class StoreAnswered:
    at: float


@dataclass(frozen=True, slots=True)
class StoodStill:
    """Rank 0's process did not run for a while."""

    at: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Something may have to be decided. `num_items`: whose results are there."""

    at: float
    num_items: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """All results are there."""

    at: float


@dataclass(frozen=True, slots=True)
class SummaryCame:
    rank: int


@dataclass(frozen=True, slots=True)
class ByeCame:
    rank: int


Event = (
    HelloCame | LeaveCame | SuspicionCame | BeatCame | SignCame | OwnLinks | Looked | StoreAnswered | StoodStill | Tick
    | StreamEnded | SummaryCame | ByeCame
)  # fmt: skip

# --- actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publish:
    """For one process to read."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Halt:
    """Announce that everybody is to leave the epoch, and leave it."""

    number: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Announce an epoch, and enter it."""

    number: int
    without: str | None
    members: tuple[str | None, ...]
    """The incarnation of every rank that is there, by rank."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Publish the last announcement once more, in case that it was lost."""


@dataclass(frozen=True, slots=True)
class Closing:
    """Announce that all results are there, and that these may end."""

    number: int
    members: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class FinishRun:
    """End well."""


@dataclass(frozen=True, slots=True)
class EndRun:
    """End badly."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class RequestKill:
    """A process that fell silent may be ended by whoever started it, so that it is started again."""

    rank: int
    process: int


@dataclass(frozen=True, slots=True)
class Report:
    event: RunEvent


Action = Publish | Halt | Begin | Announce | Closing | FinishRun | EndRun | RequestKill | Report
Actions = tuple[Action, ...]
