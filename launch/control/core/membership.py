"""The messages about membership that ranks exchange through the store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

__all__ = [
    "DONE",
    "HALT",
    "RUN",
    "Announcement",
    "Awaited",
    "Beat",
    "EpochPhase",
    "Hello",
    "Holder",
    "Leave",
    "Load",
    "Process",
    "StoreSnapshot",
    "News",
    "Suspicion",
    "Verdict",
    "read_news",
]


class EpochPhase(str, Enum):
    """What rank 0 tells the others to do, in the order in which an epoch goes through them."""

    RUN = "run"
    """Connect and stream."""
    HALT = "halt"
    """Leave it, and wait for the next."""
    DONE = "done"
    """All results are there."""


RUN, HALT, DONE = EpochPhase
PHASES = tuple(EpochPhase)
NONE = "-"


class Verdict(str, Enum):
    """What rank 0 says to a process that asked for a rank: that it has it no more, or why it does not get it."""

    OUT = "out"
    """It was lost, and may ask again."""
    LATE = "late"
    """The run was over when it came."""
    RUNS_ALREADY = "runs-already"
    OTHER_PLAN = "other-plan"
    NO_SUCH_RANK = "no-such-rank"


@dataclass(frozen=True)
class Process:
    """A process of some machine."""

    machine: str = ""
    """Its boot, and the namespace in which its number counts; empty where that cannot be told."""
    number: int = 0
    started: str = ""

    @staticmethod
    def read(values: dict[str, Any]) -> Process:
        return Process(str(values["machine"]), int(values["number"]), str(values["started"]))


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a rank has done since its process began."""

    at_ns: int = 0
    """Of its own monotonic clock."""
    compute_ns: int = 0
    received_bytes: int = 0

    def to_text(self) -> str:
        return f"{self.at_ns} {self.compute_ns} {self.received_bytes}"

    @staticmethod
    def from_words(words: list[str]) -> Load:
        at_ns, compute_ns, received_bytes = (int(word) for word in words)
        return Load(at_ns=at_ns, compute_ns=compute_ns, received_bytes=received_bytes)


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """An epoch, as rank 0 publishes it: who takes part, and in which plan."""

    number: int
    phase: EpochPhase
    without: str | None
    """The host that was lost and is done without; None for the plan as it is."""
    members: dict[int, str]
    """The incarnation of every rank that is there, those without a stage in this epoch included."""
    first: int
    """The sequence number of its first microbatch."""

    def is_after(self, other: Announcement | None) -> bool:
        """Whether rank 0 said this later: an older one may be replayed into the store."""
        return other is None or (self.number, PHASES.index(self.phase)) > (other.number, PHASES.index(other.phase))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Announcement:
        values: dict[str, Any] = json.loads(text)
        members = {int(rank): str(incarnation) for rank, incarnation in values.pop("members").items()}
        return Announcement(members=members, phase=EpochPhase(values.pop("phase")), **values)


@dataclass(frozen=True, kw_only=True)
class Beat:
    """One heartbeat. The incarnation tells a process from the one that had its rank before."""

    incarnation: str
    count: int
    left: int
    """The last epoch that this rank has left, or seen halted."""
    ready: bool
    """Its shard is loaded. While it loads, Python stands still, and beats may come late."""
    link: str = ""
    """Its process's identity on links."""
    silent: tuple[str, ...] = ()
    """The identities of those whose links to it do not carry."""
    load: Load = field(default_factory=Load)

    def is_after(self, other: Beat | None) -> bool:
        """Whether this process said it later; the beats of two processes have no order."""
        return other is None or self.incarnation != other.incarnation or self.count > other.count

    def to_text(self) -> str:
        links = f"{self.link or NONE} {','.join(self.silent) or NONE}"
        return f"{self.incarnation} {self.count} {self.left} {int(self.ready)} {links} {self.load.to_text()}"

    @staticmethod
    def from_text(text: str) -> Beat:
        incarnation, count, left, ready, link, silent, *load = text.split()
        return Beat(incarnation=incarnation, count=int(count), left=int(left), ready=ready == "1",
                    link="" if link == NONE else link, silent=() if silent == NONE else tuple(silent.split(",")),
                    load=Load.from_words(load))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Hello:
    """A process that wants to be a rank. Whatever it must prove, it proves here, before it is given anything."""

    rank: int
    incarnation: str
    sha256: str
    """Of its plan."""
    process: Process
    """For whoever started it on its machine, and for its successor there."""

    def to_json(self) -> str:
        return json.dumps({"kind": "hello", **asdict(self)})

    @staticmethod
    def read(values: dict[str, Any]) -> Hello:
        return Hello(**{**values, "process": Process.read(values["process"])})


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A connection broke in an epoch."""

    rank: int
    """Who says so."""
    number: int
    lost: int
    """The rank at its other end; -1: the epoch did not come about."""
    reason: str

    def to_json(self) -> str:
        return json.dumps({"kind": "suspicion", **asdict(self)})


@dataclass(frozen=True, kw_only=True)
class Leave:
    """A rank has gone."""

    rank: int
    incarnation: str
    """The process that is gone; whoever knows the secret may say so of another than itself."""
    signal: str = ""
    """Which told it to stop, such as SIGTERM; empty: its successor found that its process has ended."""

    def to_json(self) -> str:
        return json.dumps({"kind": "leave", **asdict(self)})


@dataclass(frozen=True, slots=True)
class Awaited:
    """Which ranks must come, or load their shard, before there is an epoch; rank 0 tells the others, who wait too."""

    absent: tuple[int, ...] = ()
    loading: tuple[int, ...] = ()
    first: bool = False
    """Whether there has been none."""
    most_s: float | None = None
    """After so long without them the run ends."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Awaited:
        values: dict[str, Any] = json.loads(text)
        return Awaited(**{**values, "absent": tuple(values["absent"]), "loading": tuple(values["loading"])})


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who has the place that another process asks for, as rank 0 tells that one: it may know that this one is gone."""

    incarnation: str
    process: Process

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Holder:
        values: dict[str, Any] = json.loads(text)
        return Holder(incarnation=values["incarnation"], process=Process.read(values["process"]))


@dataclass(frozen=True, kw_only=True)
class StoreSnapshot:
    """A heartbeat says something that rank 0 should know at once."""

    rank: int

    def to_json(self) -> str:
        return json.dumps({"kind": "look", **asdict(self)})


News = Hello | Leave | StoreSnapshot | Suspicion


def read_news(text: str) -> News:
    values: dict[str, Any] = json.loads(text)
    kind = values.pop("kind")
    if kind == "hello":
        return Hello.read(values)
    if kind == "look":
        return StoreSnapshot(**values)
    return Leave(**values) if kind == "leave" else Suspicion(**values)
