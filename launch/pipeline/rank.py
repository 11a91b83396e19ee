"""One rank during one epoch: meets the others, connects to them, and runs the work that it was given in threads.

Knows nothing of command lines or recovery, nor of the work: when its epoch ends early it is abandoned, and another one
is made for the next. All work is done in threads, so that the thread that started it stays free to hear a signal:
several torch calls wait in C++ where no signal is served.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from torch._C._distributed_c10d import Store as GroupStore

from edgecompile.contract.plan import Plan
from edgelaunch.common.failures import Abandoned, rank_name
from edgelaunch.common.rank_figures import LinkCount
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.rank_summary import RankSummary
from edgelaunch.process.processes import boot_identity
from edgelaunch.store.meeting import Board, Meeting
from edgelaunch.store.seal import Seal
from edgelaunch.transport.counters import StageClock
from edgelaunch.transport.process_group import Epoch, Member, local_address

__all__ = ["EpochRole", "EpochWork", "Rank", "RankCallbacks", "RankWork"]

CONNECT_S = 15.0
"""For connecting once every rank has said that it is ready."""


@dataclass(frozen=True, kw_only=True)
class EpochRole:
    """This rank's part in an epoch."""

    number: int
    plan: Plan
    """The plan with this epoch's stages."""
    group: tuple[int, ...]
    """The ranks that take part, in order."""
    first: int
    """The sequence number of the first message."""


@dataclass(frozen=True, kw_only=True)
class RankCallbacks:
    """What a rank tells the process that it runs in."""

    streaming: threading.Event
    """Set once all ranks are connected."""
    fail: Callable[[BaseException], None]
    """Called with what ended a thread."""
    wake: Callable[[], None]
    """Called once the rank is complete."""


class EpochWork(Protocol):
    """What a rank does in one epoch."""

    def run(self, rank: Rank) -> None:
        """In a thread of the rank's: from connecting to the end. Raises Abandoned where it is given up."""

    def abandon(self) -> None:
        """Whoever waits in it, now or later, gets Abandoned."""

    def summary(self) -> RankSummary:
        """Its counters for rank 0's report, but for the machine."""

    def received(self) -> dict[int, LinkCount]:
        """Of the links that end here, by the number of the boundary."""


class RankWork(Protocol):
    """What a rank does as long as its process lives."""

    @property
    def clocks(self) -> dict[tuple[int, int], StageClock]:
        """By the units of the stage; empty where nothing is computed."""

    def prepare(self, set_ready: Callable[[bool], None]) -> None:
        """Gets ready to take part; `set_ready` is told whenever that changes."""

    def in_epoch(self, role: EpochRole) -> EpochWork: ...


class Rank:
    """Runs one rank in one epoch, in threads of this process."""

    def __init__(
        self, options: RankOptions, role: EpochRole, work: EpochWork, callbacks: RankCallbacks, seal: Seal | None
    ) -> None:
        """`seal`: of what the ranks say to each other in the store."""
        self.role, self.options = role, options
        self._work, self._callbacks, self._seal = work, callbacks, seal
        self._rank = options.rank
        self.complete = False
        """Whether all is through: on rank 0 every result is there, elsewhere everything was passed on."""
        self.streaming = False
        """Whether all ranks are connected."""
        self._abandoned = threading.Event()
        self._lock = threading.Lock()
        self._epoch: Epoch | None = None
        self._board: Board | None = None
        self._meeting: Meeting | None = None
        self.threads: list[threading.Thread] = []
        self._peers: tuple[int, ...] = ()

    # --- of the process that it runs in ------------------------------------------------------------------------------

    def start(self) -> None:
        self.thread("rank", self._body)

    def abandon(self, wait_s: float = 0.0) -> None:
        """Ends all threads of this epoch; those in a long computation end after it. `wait_s`: for each of them."""
        with self._lock:
            self._abandoned.set()
            epoch = self._epoch
        self._work.abandon()
        if epoch is not None:
            epoch.abandon(wait_s)
        for thread in self.threads:
            thread.join(wait_s)

    def summary(self) -> RankSummary:
        """This rank's counters for rank 0's report."""
        return replace(self._work.summary(), machine=boot_identity())

    def received(self) -> dict[int, LinkCount]:
        """Of the links that end here, by the number of the boundary."""
        return self._work.received()

    # --- of its work -------------------------------------------------------------------------------------------------

    @property
    def board(self) -> Board:
        """Its own connection to the store, once it is connected."""
        assert self._board is not None, "the rank is not connected"
        return self._board

    @property
    def epoch(self) -> Epoch:
        """Its connections to the other ranks."""
        assert self._epoch is not None, "the rank is not connected"
        return self._epoch

    def thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Begins one that ends with the epoch; what it raises ends the epoch."""

        def body() -> None:
            try:
                work()
            except Abandoned:
                pass
            except BaseException as error:
                if not self._abandoned.is_set():
                    self._callbacks.fail(error)

        thread = threading.Thread(target=body, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def check(self) -> None:
        """Raises Abandoned where the epoch was given up."""
        if self._abandoned.is_set():
            raise Abandoned

    def connect(self, peers: Iterable[int]) -> None:
        """Meets the whole group, and connects to the peers; each of them must do the same."""
        options, role = self.options, self.role
        self._peers = tuple(peers)
        timeout_s = min(CONNECT_S, role.plan.runtime.timeout_s)
        # of its own: one that waits for a rank that never comes would block all other calls
        self._board = Board(options.endpoint, serve=False, timeout_s=timeout_s, seal=self._seal)
        self._meeting = Meeting(self._board, role.number, role.group, self._abandoned.is_set)
        self._meeting.all_ready(self._rank)
        address = local_address(role.plan.hosts[self._rank].address, options.endpoint.address)
        member = Member(
            epoch=role.number, rank=self._rank, group=role.group, peers=self._peers, address=address,
            timeout_s=timeout_s,
        )  # fmt: skip
        epoch = Epoch(self._group_store, member, _weakly(self._link_failed))
        with self._lock:
            abandoned, self._epoch = self._abandoned.is_set(), epoch
        if abandoned:
            epoch.abandon()
            raise Abandoned

    def begin_streaming(self) -> None:
        """All ranks are connected."""
        self.check()
        peers = list(self._peers)
        names = ", ".join(rank_name(self.options.plan, peer) for peer in peers) or "nobody: it is alone"
        self.options.log.trace(f"connected to {names}", "connected", peers=peers)
        self.streaming = True
        self._callbacks.streaming.set()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _body(self) -> None:
        self._work.run(self)
        self.check()
        if self._meeting is not None and self._rank:
            self._meeting.give_summary(self._rank, self.summary())
        self.complete = True
        self._callbacks.wake()

    def _group_store(self, pair: str) -> GroupStore:
        self.check()
        return self.board.group_store(f"epoch-{self.role.number}/{pair}")

    def _link_failed(self, error: BaseException) -> None:
        if not isinstance(error, Abandoned) and not self._abandoned.is_set():
            self._callbacks.fail(error)


def _weakly(fail: Callable[[BaseException], None]) -> Callable[[BaseException], None]:
    """A method that does not hold its object: links are the rank's, and would keep it and their buffers until the
    garbage collector finds the circle."""
    method = weakref.WeakMethod(fail)

    def call(error: BaseException) -> None:
        found = method()
        if found is not None:
            found(error)

    return call
