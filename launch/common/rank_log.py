"""The log of one rank: lines with its name, host and epoch. Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from edgecompile.contract.plan import Plan
from edgecompile.terminal.logs import tell
from edgelaunch.common.failures import rank_name

__all__ = ["RankLog"]


class RankLog:
    """Any thread may call it. `place` always tells where the rank is now."""

    def __init__(self, plan: Plan, rank: int, *, quiet: bool = False, tell: Callable[..., None] = tell) -> None:
        """`tell`: takes each line; as of `edgecompile.terminal.logs`."""
        self._about, self._quiet, self._tell = rank_name(plan, rank), quiet, tell
        self.place: dict[str, Any] = {"rank": rank, "host": plan.hosts[rank].name, "epoch": 0}

    def __call__(self, text: str, *, level: int = logging.INFO, event: str = "message", detail: bool = False,
                 **fields: Any) -> None:  # fmt: skip
        """`detail`: only for logs with levels. `fields`: of the event, for logs in JSON."""
        if not self._quiet:
            self._tell(text, level=level, about=self._about, event=event, detail=detail, **self.place, **fields)

    def trace(self, text: str, event: str, **fields: Any) -> None:
        self(text, level=logging.DEBUG, event=event, **fields)

    def enter(self, epoch: int) -> None:
        """From now on it is in this epoch."""
        self.place["epoch"] = epoch
