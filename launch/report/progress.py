"""Shows the progress of a run on stderr: a live view on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgecompile.contract.quantities import format_items_rate
from edgecompile.terminal.logs import log_form
from edgelaunch.control.pace import Overview
from edgelaunch.process.stderr import say

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from edgelaunch.control.supervisor import Supervisor

__all__ = ["Meter"]

PLAIN_EVERY_S = 5.0
FIRST_S = 1.0
REDRAWS_PER_S = 2.0
RATE_S = 10.0
"""A rate is that of so long a time."""


class Meter:
    """Told of each result; draws from a thread of its own where it draws."""

    def __init__(self, total: int | None, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._runner: Supervisor | None = None
        self._done = 0
        self._begin = self._next = 0.0
        self._live: Live | None = None
        self._samples: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def look_at(self, runner: Supervisor) -> None:
        """Whose ranks are shown."""
        self._runner = runner

    def advance(self, count: int) -> None:
        """Called for each result; the clock starts with the first."""
        if self._quiet:
            return
        now = time.monotonic()
        if not self._begin:
            self._start(now)
        self._done += count
        if self._live is None and now >= self._next:
            self._next = now + PLAIN_EVERY_S
            say(self._line(now), event="progress", items=self._done, total=self._total)

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _start(self, now: float) -> None:
        self._begin, self._next = now, now + FIRST_S
        if sys.stderr.isatty() and not log_form().dated:
            from rich.console import Console  # only where something is drawn: it takes 50 ms of the start
            from rich.live import Live

            # auto_refresh: also while no result comes
            self._live = Live(console=Console(stderr=True), get_renderable=self.view, transient=True,
                              refresh_per_second=REDRAWS_PER_S)  # fmt: skip
            self._live.start()

    # --- what is shown -----------------------------------------------------------------------------------------------

    def view(self) -> RenderableType:
        """A row a stage, and below it how far the run is."""
        from edgelaunch.report.live_view import draw

        return draw(self._overview(), self._done, self._total, self._rate(time.monotonic()))

    def _line(self, now: float) -> str:
        total = f" of {self._total}" if self._total is not None else ""
        text = f"{self._done}{total} items, {format_items_rate(self._rate(now))}"
        overview = self._overview()
        shares = list(_shares(overview)) if overview is not None else []
        return f"{text}, busy: {', '.join(shares)}" if shares else text

    def _overview(self) -> Overview | None:
        return self._runner.overview() if self._runner is not None else None

    def _rate(self, now: float) -> float:
        """Items a second over the last while; since the first result where that is shorter."""
        with self._lock:
            self._samples.append((now, self._done))
            while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_S:
                self._samples.popleft()
            since, done = self._samples[0] if now - self._samples[0][0] >= RATE_S else (self._begin, 0)
        return (self._done - done) / (now - since) if now > since else 0.0


def _shares(overview: Overview) -> Iterator[str]:
    for stage in overview.plan.stages:
        pace = overview.paces.get(stage.rank)
        busy = pace.busy if pace is not None else None
        if busy is not None:
            yield f"{overview.plan.hosts[stage.rank].name} {busy:.0%}"
