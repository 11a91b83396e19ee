"""Events and actions of `follower.step`: what a rank other than 0 hears, and what it does."""

from __future__ import annotations

from dataclasses import dataclass

from edgelaunch.control.core.membership import Announcement, Beat, Hello, Leave, Suspicion, Verdict
from edgelaunch.control.core.run_events import Cause, RunEvent

__all__ = [
    "Action",
    "Actions",
    "AnnouncementCame",
    "Answered",
    "BeatNow",
    "EndRank",
    "Enter",
    "Event",
    "FinishRank",
    "HolderGone",
    "LeaderBeat",
    "LeaderSign",
    "LeaveEpoch",
    "LinkBroke",
    "LoadedShard",
    "Note",
    "OwnTick",
    "Paused",
    "Say",
    "Start",
    "StoreFailed",
    "VerdictCame",
]

# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    at: float


@dataclass(frozen=True, slots=True)
class AnnouncementCame:
    announcement: Announcement


@dataclass(frozen=True, slots=True)
class VerdictCame:
    """On one incarnation of this process."""

    incarnation: str
    verdict: Verdict
    following: str
    """The incarnation as which it may ask again."""


@dataclass(frozen=True, slots=True)
class HolderGone:
    """The process that has this one's rank was on this machine, and has ended."""

    incarnation: str


@dataclass(frozen=True, slots=True)
class LeaderBeat:
    """Rank 0's heartbeat was looked for; None where there is none."""

    at: float
    beat: Beat | None


@dataclass(frozen=True, slots=True)
class LeaderSign:
    """Rank 0's process wrote over its link to this one, at `signed`."""

    signed: float
    more_s: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The store did."""

    at: float


@dataclass(frozen=True, slots=True)
class StoreFailed:
    reason: str


@dataclass(frozen=True, slots=True)
class Paused:
    """This process did not run for a while."""

    at: float


@dataclass(frozen=True, slots=True)
class LinkBroke:
    """A connection of an epoch; `lost` is the rank at its other end, -1 where the epoch did not come about."""

    at: float
    number: int
    lost: int
    reason: str


@dataclass(frozen=True, slots=True)
class LoadedShard:
    ready: bool


@dataclass(frozen=True, slots=True)
class OwnTick:
    """Something may have to be decided."""

    at: float


Event = (
    Start | AnnouncementCame | VerdictCame | HolderGone | LeaderBeat | LeaderSign | Answered | StoreFailed | Paused
    | LinkBroke | LoadedShard | OwnTick
)  # fmt: skip

# --- actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """To rank 0."""

    message: Hello | Leave | Suspicion


@dataclass(frozen=True, slots=True)
class BeatNow:
    """The heartbeat says something new."""


@dataclass(frozen=True, slots=True)
class Enter:
    """Begin an epoch."""

    announcement: Announcement


@dataclass(frozen=True, slots=True)
class LeaveEpoch:
    """Give up the one that runs, if any does."""


@dataclass(frozen=True, slots=True)
class FinishRank:
    """Say goodbye, and end well."""


@dataclass(frozen=True, slots=True)
class EndRank:
    """End badly; the others go on."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Note:
    event: RunEvent


Action = Say | BeatNow | Enter | LeaveEpoch | FinishRank | EndRank | Note
Actions = tuple[Action, ...]
