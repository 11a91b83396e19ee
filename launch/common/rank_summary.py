"""Counters of a rank in one epoch, as it tells them to rank 0 for the report and the record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Durations", "LinkSummary", "RankSummary", "StageSummary", "Stamps"]

Stamps = tuple[int, int, int, int, int]
"""When a microbatch began, had its input, was computed, could be sent and was packed: in ns, on the machine's clock."""


@dataclass(frozen=True, kw_only=True)
class Durations:
    """Of a series: of all of them, and of those that were kept, without the first two."""

    count: int = 0
    total_s: float = 0.0
    least_s: float = 0.0
    mean_s: float = 0.0
    """Of the kept, as are the next."""
    median_s: float = 0.0
    max_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """Where a stage's time went, each microbatch."""

    wait_input: Durations = Durations()
    compute: Durations = Durations()
    wait_output: Durations = Durations()
    pack: Durations = Durations()
    trace: tuple[Stamps, ...] = ()
    """Of the last microbatches, oldest first."""

    def share(self, part: Durations) -> float:
        """Of the stage's time that one part of it takes, once it is warm."""
        total = sum(each.mean_s for each in (self.wait_input, self.compute, self.wait_output, self.pack))
        return part.mean_s / total if total > 0 else 0.0

    @staticmethod
    def read(values: dict[str, Any]) -> StageSummary:
        traced = values.pop("trace")
        trace = tuple((began, got, computed, acquired, packed) for began, got, computed, acquired, packed in traced)
        return StageSummary(trace=trace, **{part: Durations(**durations) for part, durations in values.items()})


@dataclass(frozen=True, kw_only=True)
class LinkSummary:
    """The messages over one boundary, as one end of its link saw them."""

    busy: Durations
    num_bytes: int
    share_timed: float = 0.0
    """Of a message's bytes, those that a receiver saw arriving: all but the first piece."""

    @staticmethod
    def read(values: dict[str, Any]) -> LinkSummary:
        return LinkSummary(busy=Durations(**values.pop("busy")), **values)


@dataclass(frozen=True, kw_only=True)
class RankSummary:
    machine: str = ""
    """Identity of its boot: ranks with equal ones share a clock; empty where the rank told nothing."""
    stage: StageSummary = StageSummary()
    """All zero where it has none."""
    send: Mapping[int, LinkSummary] = field(default_factory=dict)
    """By the number of the boundary."""
    receive: Mapping[int, LinkSummary] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> RankSummary:
        values: dict[str, Any] = json.loads(text)
        send, receive = (
            {int(boundary): LinkSummary.read(link) for boundary, link in values[way].items()}
            for way in ("send", "receive")
        )
        return RankSummary(
            machine=values["machine"], stage=StageSummary.read(values["stage"]), send=send, receive=receive
        )
