"""Logs of all commands on standard error, through `logging`: bare lines, lines with time and level, or JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

__all__ = ["LogForm", "LogLevel", "log_form", "log_line", "log_shown", "mark_logs", "show_logs", "tell"]

_LOGGER = logging.getLogger("edgecompile")
"""Of all our commands."""


class LogLevel(str, Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        return int(getattr(logging, self.name))


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What a line says beside its text."""

    about: str = ""
    """Who or what it is about, to stand before the text."""
    event: str = "message"
    detail: bool = False
    """Only for logs: a person at a terminal is not told."""
    trace: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LogForm:
    """How lines look, and which there are."""

    level: LogLevel | None = None
    """None: as a person at a terminal wants them, without time and level."""
    json: bool = False

    @property
    def dated(self) -> bool:
        return self.json or self.level is not None

    def shows(self, record: logging.LogRecord) -> bool:
        if not self.dated:
            return record.levelno >= logging.INFO and not _said(record).detail
        return record.levelno >= (self.level or LogLevel.INFO).number

    def line(self, record: logging.LogRecord) -> str:
        said, text, level = _said(record), record.getMessage(), record.levelname.lower()
        trace = said.trace or (logging.Formatter().formatException(record.exc_info) if record.exc_info else "")
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        place = {"rank": None, "host": None, "epoch": None, **_State.place}
        if self.json:
            values = {
                "time": time,
                "level": level,
                **place,
                "event": said.event,
                "message": text.strip(),
                **said.fields,
            }
            return json.dumps(values | ({"trace": trace} if trace else {}), default=str)
        before = f"{trace.rstrip()}\n" if trace else ""
        if not self.dated:
            error = "error: " if record.levelno >= logging.ERROR and said.event == "failed" else ""
            return f"{before}{said.about}{': ' if said.about else ''}{error}{text}"
        values = {**place, **said.fields}
        about = said.about or ("" if values["rank"] is None else f"rank {values['rank']} ({values['host']})")
        epoch = f"epoch {values['epoch']}" if values["epoch"] else ""
        where, text = ", ".join(filter(None, (about, epoch))), text.strip()
        return f"{before}{time} {level:<7} {where}{': ' if where else ''}{text}"


class _State:
    """Of this process."""

    form = LogForm()
    place: Mapping[str, Any] = {}


class _Handler(logging.Handler):
    """To standard error as it is now, a line at once: `print` writes the end of the line by itself, and another
    thread's line would come between, or the process's end."""

    def emit(self, record: logging.LogRecord) -> None:
        if _State.form.shows(record):
            sys.stderr.write(f"{_State.form.line(record)}\n")
            sys.stderr.flush()


_HANDLER = _Handler()
_LOGGER.addHandler(_HANDLER)
_LOGGER.setLevel(logging.DEBUG)
_LOGGER.propagate = False


def tell(text: str, *, level: int = logging.INFO, about: str = "", event: str = "message", detail: bool = False,
         trace: str = "", **fields: Any) -> None:  # fmt: skip
    """One line. `fields`: of the event, for JSON; the others as of _Said."""
    _LOGGER.handle(_record(text, level, _Said(about=about, event=event, detail=detail, trace=trace, fields=fields)))


def log_line(form: LogForm, text: str, *, level: int = logging.INFO, about: str = "", event: str = "message",
             **fields: Any) -> str:  # fmt: skip
    """What `tell` would write in this form, with the line's end; empty where the form shows no such line."""
    record = _record(text, level, _Said(about=about, event=event, fields=fields))
    return f"{form.line(record)}\n" if form.shows(record) else ""


def log_form() -> LogForm:
    return _State.form


def show_logs(form: LogForm) -> None:
    """From now on. With time and level come the lines and warnings of libraries, too."""
    before, _State.form = _State.form, form
    if form.dated == before.dated:
        return
    root = logging.getLogger()
    if form.dated and _HANDLER not in root.handlers:
        root.addHandler(_HANDLER)
    elif not form.dated and _HANDLER in root.handlers:
        root.removeHandler(_HANDLER)
    logging.captureWarnings(form.dated)


@contextmanager
def log_shown(form: LogForm) -> Iterator[None]:
    """Meanwhile; then as before."""
    before = _State.form
    show_logs(form)
    try:
        yield
    finally:
        show_logs(before)


def mark_logs(place: Mapping[str, Any]) -> None:
    """Which rank this process is, of which host and in which epoch; read again for each line."""
    _State.place = place


def _record(text: str, level: int, said: _Said) -> logging.LogRecord:
    record = _LOGGER.makeRecord(_LOGGER.name, level, "", 0, text, (), None)
    record.said = said
    return record


def _said(record: logging.LogRecord) -> _Said:
    said = getattr(record, "said", None)
    return said if isinstance(said, _Said) else _Said(about="" if record.name == _LOGGER.name else record.name)
