"""Reports of a rank's process to the one that started it, a line of JSON each. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from edgelaunch.common.failures import Failure

__all__ = ["KillRequest", "Report", "read_report"]

KILL = "kill"


@dataclass(frozen=True, kw_only=True)
class KillRequest:
    """A rank fell silent: its process may stand still, and only whoever started it can end it."""

    rank: int
    process: int
    """Its number."""

    def to_json(self) -> str:
        return json.dumps({KILL: asdict(self)})


Report = Failure | KillRequest


def read_report(line: str) -> Report:
    values = json.loads(line)
    return KillRequest(**values[KILL]) if KILL in values else Failure.read(values)
