"""The options of logs, which every command has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from edgecompile.contract.errors import UserError
from edgecompile.terminal.logs import LogForm, LogLevel
from edgelaunch.request.option_fields import Option, Reach, option

__all__ = ["LogOptions", "check_log"]

LOGS = "logs, on standard error"


def _level(**reach: object) -> Mapping[str, Option]:
    return option("--log-level", LogLevel, group=LOGS, metavar="LEVEL", **reach,  # type: ignore[arg-type]
                  help="debug, info, warning or error: each line with time, level, rank and epoch")  # fmt: skip


def _json(**reach: object) -> Mapping[str, Option]:
    return option("--log-json", group=LOGS, **reach,  # type: ignore[arg-type]
                  help="each line a JSON object: time, level, rank, epoch, event, message")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Every rank that a command starts is given them."""

    SERVICE: ClassVar[bool] = False
    """It runs for days: its lines have time and level by themselves."""

    log_level: LogLevel | None = field(default=None, metadata=_level(reach=Reach.EVERY_RANK))
    log_json: bool = field(default=False, metadata=_json(reach=Reach.EVERY_RANK))

    @property
    def log_form(self) -> LogForm:
        level = LogLevel.INFO if self.SERVICE and self.log_level is None else self.log_level
        return LogForm(level=level, json=self.log_json)


def check_log(level: LogLevel | None, *, quiet: bool) -> None:
    """Raises UserError where the options contradict each other."""
    if quiet and level is not None:
        raise UserError("--quiet leaves errors alone, and --log-level chooses lines: give one of them")
