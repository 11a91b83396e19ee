"""The epochs of one process, one after the other: what it takes part in now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgecompile.contract.plan import Plan
from edgelaunch.common.plan_parts import plan_without
from edgelaunch.common.rank_figures import PARTS, RankFigures
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.control.core.membership import Announcement, Load
from edgelaunch.control.core.rules import Route
from edgelaunch.pipeline.rank import EpochRole, Rank, RankCallbacks, RankWork
from edgelaunch.process.own_memory import own_memory
from edgelaunch.store.seal import Seal

__all__ = ["Epochs"]

JOIN_S = 0.5
"""A thread may be in the caller's own iterable, or in a long computation: it is left behind then."""


@dataclass
class Epochs:
    """Used by the main thread; `load`, `figures` and `plan` by any."""

    options: RankOptions
    work: RankWork
    callbacks: Callable[[int], RankCallbacks]
    """For an epoch, by its number."""
    seal: Seal | None = None
    current: Rank | None = None
    number: int = 0
    """Of the latest."""
    without: str | None = None
    _received_bytes: int = 0
    _left_behind: list[threading.Thread] = field(default_factory=list)
    """Of epochs that were left, those that have not ended."""

    @property
    def plan(self) -> Plan:
        """As it runs."""
        return plan_without(self.options.plan, self.without)

    def enter(self, announcement: Announcement) -> None:
        """Its threads do the rest."""
        self.number, self.without = announcement.number, announcement.without
        self.options.log.enter(announcement.number)
        group = Route.of(self.options.plan, self.without).group
        role = EpochRole(number=announcement.number, plan=self.plan, group=group, first=announcement.first)
        callbacks = self.callbacks(announcement.number)
        self.current = Rank(self.options, role, self.work.in_epoch(role), callbacks, self.seal)
        self.current.start()

    def leave(self) -> None:
        """Gives up the one that runs, if any does."""
        current, self.current = self.current, None
        if current is not None:
            self.options.log.trace("leaves this epoch", "epoch_left")
            self._received_bytes = _total(current)
            current.abandon()
            threads = (*self._left_behind, *current.threads)
            self._left_behind = [thread for thread in threads if thread.is_alive()]

    def abandon(self) -> list[threading.Thread]:
        """For a process that lives on without its rank; returns the threads that are to be waited for."""
        if self.current is None:
            return self._left_behind
        self.current.abandon(JOIN_S)
        return [*self._left_behind, *self.current.threads]

    @property
    def complete(self) -> bool:
        """Whether all of the current one is through."""
        return self.current is not None and self.current.complete

    def load(self) -> Load:
        """What this rank has done."""
        clocks, current = list(self.work.clocks.values()), self.current
        self._received_bytes = _total(current) if current is not None else self._received_bytes
        compute_ns = sum(clock.compute.total_ns for clock in clocks)
        return Load(at_ns=time.monotonic_ns(), compute_ns=compute_ns, received_bytes=self._received_bytes)

    def figures(self) -> RankFigures:
        """The same, in more detail."""
        clocks, current = list(self.work.clocks.values()), self.current
        memory_bytes, resident_bytes = own_memory()
        return RankFigures(
            at_ns=time.monotonic_ns(), epoch=self.number, memory_bytes=memory_bytes, resident_bytes=resident_bytes,
            parts_ns=tuple(sum(getattr(clock, part).total_ns for clock in clocks) for part in PARTS),
            received=current.received() if current is not None else {},
        )  # fmt: skip


def _total(rank: Rank) -> int:
    return sum(link.num_bytes for link in rank.received().values())
