"""Figures that a rank tells beside its heartbeats, for those who watch a run. An older rank tells none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PARTS", "LinkCount", "RankFigures"]

PARTS = ("wait_input", "compute", "wait_output", "pack")
"""Of a stage's time, in the order in which they come."""


@dataclass(frozen=True, kw_only=True)
class LinkCount:
    """What came in over one link, as its receiver counted it."""

    num_bytes: int = 0
    busy_ns: int = 0
    """From a message's first piece to its last; 0 of messages that are one piece."""
    timed_bytes: int = 0
    """Of the bytes, those that this time is of."""


@dataclass(frozen=True, kw_only=True)
class RankFigures:
    at_ns: int = 0
    """Of its own monotonic clock; 0: nothing was told."""
    epoch: int = 0
    memory_bytes: int = 0
    """What no file backs; 0: unknown."""
    resident_bytes: int = 0
    parts_ns: tuple[int, ...] = (0, 0, 0, 0)
    """Where its stages' time went since the process began, by PARTS."""
    received: Mapping[int, LinkCount] = field(default_factory=dict)
    """By the number of the boundary, of this epoch's stages."""

    def to_json(self) -> str:
        links = {boundary: [link.num_bytes, link.busy_ns, link.timed_bytes] for boundary, link in self.received.items()}
        return json.dumps({"at_ns": self.at_ns, "epoch": self.epoch, "memory_bytes": self.memory_bytes,
                           "resident_bytes": self.resident_bytes, "parts_ns": self.parts_ns,
                           "received": links})  # fmt: skip

    @staticmethod
    def from_json(text: str) -> RankFigures | None:
        """None where a rank of another version wrote something else."""
        try:
            values: dict[str, Any] = json.loads(text)
            received = {
                int(boundary): LinkCount(num_bytes=int(link[0]), busy_ns=int(link[1]), timed_bytes=int(link[2]))
                for boundary, link in values["received"].items()
            }
            parts_ns = tuple(int(part) for part in values["parts_ns"])[: len(PARTS)]
            numbers = {name: int(values[name]) for name in ("at_ns", "epoch", "memory_bytes", "resident_bytes")}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return None
        return RankFigures(**numbers, parts_ns=parts_ns, received=received) if len(parts_ns) == len(PARTS) else None
