"""Events of a run as values, from which log lines, the run's record and tests are made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edgelaunch.common.plan_parts import Pair
from edgelaunch.control.core.membership import Verdict

__all__ = [
    "Cause",
    "EpochBegan",
    "EpochEnded",
    "LeaderSilent",
    "LinkCut",
    "LinkHealed",
    "Loss",
    "LossKind",
    "NoResult",
    "NotBack",
    "NotHealed",
    "NotJoined",
    "RankJoined",
    "RankLost",
    "Rejected",
    "Rejoins",
    "ResultsAgain",
    "RunEvent",
    "StoreGone",
    "StoreSilent",
    "WrongPlan",
]


class LossKind(Enum):
    """How a rank was lost."""

    SILENT = "silent"
    """Its heartbeats stopped; its process may still be there."""
    DISCONNECTED = "disconnected"
    """It closed a connection, and showed no sign of life since."""
    STOPPED = "stopped"
    """A signal told it to stop, and it left."""
    ENDED = "ended"
    """Its successor found that its process has ended."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A rank that was there and is not any more."""

    rank: int
    kind: LossKind
    process: int
    """The number of its process."""
    silent_s: float = 0.0
    signal: str = ""
    """Which told it to stop."""


# --- what happens while a run goes on --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RankJoined:
    """A process has got a rank."""

    at: float
    rank: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class RankLost:
    at: float
    loss: Loss
    num_items: int
    """Whose results were there."""


@dataclass(frozen=True, slots=True)
class LinkCut:
    """Nothing comes through between two ranks that are both alive."""

    at: float
    ranks: Pair
    silent_s: float
    num_items: int


@dataclass(frozen=True, slots=True)
class LinkHealed:
    at: float
    ranks: Pair
    after_s: float
    both: bool
    """Whether both ends are there; where one is gone, that is what is told."""


@dataclass(frozen=True, slots=True)
class EpochBegan:
    at: float
    number: int
    without: str | None
    """The host that is done without."""
    rate: float
    """Items a second, predicted; `planned_rate`: with all hosts."""
    planned_rate: float


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """Early: all ranks are to leave it."""

    at: float
    number: int


@dataclass(frozen=True, slots=True)
class ResultsAgain:
    """The first result after an epoch that ended early."""

    at: float
    pause_s: float


@dataclass(frozen=True, slots=True)
class Rejoins:
    """This rank was considered lost, and asks for its place again."""

    at: float


RunEvent = (
    RankJoined | RankLost | LinkCut | LinkHealed | EpochBegan | EpochEnded | ResultsAgain | Rejoins
)  # fmt: skip

# --- why it ends -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WrongPlan:
    """A rank came with another plan than rank 0's."""

    rank: int


@dataclass(frozen=True, slots=True)
class NotJoined:
    ranks: tuple[int, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class NotBack:
    """A rank that no plan does without stayed away."""

    loss: Loss
    rejoin_s: float
    num_items: int


@dataclass(frozen=True, slots=True)
class NotHealed:
    """A link that no plan does without stayed cut."""

    ranks: Pair
    silent_s: float
    rejoin_s: float
    num_items: int


@dataclass(frozen=True, slots=True)
class NoResult:
    """Epoch after epoch brought no result."""

    attempts: int
    loss: Loss | None
    """The last one."""


@dataclass(frozen=True, slots=True)
class StoreSilent:
    """A call to the store does not come back."""

    silent_s: float


@dataclass(frozen=True, slots=True)
class StoreGone:
    """The store no longer answers."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeaderSilent:
    """Rank 0's heartbeats stopped."""

    silent_s: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """Rank 0 does not take this process."""

    verdict: Verdict


Cause = WrongPlan | NotJoined | NotBack | NotHealed | NoResult | StoreSilent | StoreGone | LeaderSilent | Rejected
