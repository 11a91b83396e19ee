"""Sends heartbeats and receives announcements, in one thread with its own connection to the store."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable

from edgecompile.contract.plan import Plan
from edgelaunch.common.detection import beat_s
from edgelaunch.common.failures import Failure, FailureBox, PeerLostError
from edgelaunch.common.rank_figures import RankFigures
from edgelaunch.control.core.membership import Announcement, Beat, Hello, Leave, Load, StoreSnapshot, Suspicion, Verdict
from edgelaunch.control.core.rules import Rules
from edgelaunch.control.listening import NEWS, Errands, FollowerSide, LeaderSide, beat_key, figures_key
from edgelaunch.process.abandoned_threads import await_at_exit
from edgelaunch.store.joining import Door
from edgelaunch.store.meeting import Board
from edgelaunch.transport.link_watch import LinkWatch

__all__ = ["Watch"]

POLL_S = 0.3
LEADER_POLL_S = 0.2
URGENT_POLL_S = 0.01
PARTING_S = 1.5
FLUSH_S = 1.0


class Watch:
    """Beats for this rank, and carries news in both directions.

    Rank 0 listens to all, the others to rank 0: what rank 0 decides it announces. Operation timeouts play no part: a
    slow stage or a quiet source is not a failure, and one timed-out gloo operation closes the whole group.
    """

    def __init__(
        self,
        board: Board,
        plan: Plan,
        rank: int,
        sha256: str,
        box: FailureBox,
        links: LinkWatch,
        load: Callable[[], Load] = Load,
        figures: Callable[[], RankFigures] = RankFigures,
        door: Door | None = None,
    ) -> None:
        """`links`: this rank's; `load`: what this rank has done, to be said with each beat, and `figures` beside it.
        `door`: rank 0's, for those who come."""
        self._links, self._load, self._figures = links, load, figures
        self._board, self._rank, self._box = board, rank, box
        self._detect_s, self._beat_s = plan.runtime.detect_s, beat_s(plan)
        self._urgent = True  # until `hurry` says otherwise: the first epoch is about to form
        self.last_answer = time.monotonic()
        """When the store last answered. A call to it can hang whatever its timeout: the main thread looks at this."""
        self._outbox: deque[str] = deque()
        self._own = secrets.token_hex(8)
        self._count = self._num_changes = 0
        self._links_changed = self._placed = False
        self._next_beat = 0.0
        self._wake, self._stop, self._flushed = threading.Event(), threading.Event(), threading.Event()
        errands = Errands(board=board, box=box, links=links, say=self._say, beat_now=self.beat_now)
        rules = Rules.of(plan, sha256)
        self.leader = LeaderSide(errands, plan, rules, door) if rank == 0 else None
        self.follower = FollowerSide(errands, plan, rules, rank) if rank else None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        if self.follower is not None:
            self.follower.start()
        links.changed = self._tell_of_links
        self._thread.start()

    # --- what it knows -----------------------------------------------------------------------------------------------

    @property
    def incarnation(self) -> str:
        """Tells this process, or what it came back as, from all others that had its rank."""
        return self.follower.state.incarnation if self.follower is not None else self._own

    @property
    def announcement(self) -> Announcement | None:
        """The latest of rank 0's; not kept on rank 0 itself."""
        return self.follower.state.heard if self.follower is not None else None

    @property
    def verdict(self) -> Verdict | None:
        """What rank 0 said of this incarnation."""
        return self.follower.state.verdict if self.follower is not None else None

    # --- any thread's side -------------------------------------------------------------------------------------------

    def suspect(self, number: int, lost: int, reason: str) -> None:
        """Tells rank 0 that a connection of this epoch broke."""
        if self.leader is not None:
            self.leader.suspect(number, lost, reason)
        elif self.follower is not None:
            self.follower.suspect(number, lost, reason)

    def set_ready(self, ready: bool) -> None:
        """Whether this rank has its shard. Returns once rank 0 can know, or after a second."""
        if self.leader is not None:
            self.leader.ready = ready
            self.beat_now()
        elif self.follower is not None:
            self.follower.set_ready(ready)
        self._flushed.wait(FLUSH_S)

    def beat_now(self) -> None:
        """The heartbeat says something new."""
        self._num_changes += 1
        self._flushed.clear()
        self._next_beat = 0.0
        self._wake.set()

    def hurry(self, urgent: bool) -> None:
        """Whether news is looked for more often: an epoch is being left or formed, or all is through."""
        if urgent and not self._urgent:
            self._wake.set()
        self._urgent = urgent

    def answered(self, now: float) -> None:
        """The store answered, or it cannot be told whether it did."""
        self.last_answer = now
        if self.leader is not None:
            self.leader.answered(now)
        elif self.follower is not None:
            self.follower.answered(now)

    def stop(self) -> None:
        self._links.stop()
        self._stop.set()
        self._wake.set()
        await_at_exit(self._thread)

    def told_all(self, failure: Failure) -> None:
        """Publishes this rank's failure and, on rank 0, stays until the others have read it; at most 1.5 s."""
        self._last_words(lambda: self._tell(failure))

    def leave(self, signal: str) -> None:
        """Tells rank 0 that this rank goes, and which signal told it to; at most 1.5 s."""
        leave = Leave(rank=self._rank, incarnation=self.incarnation, signal=signal)
        self._last_words(lambda: self._board.append(NEWS, leave.to_json()))

    def _last_words(self, say: Callable[[], None]) -> None:
        self.stop()

        def speak() -> None:
            self._thread.join(PARTING_S)  # the board is the watch thread's until it ends
            with contextlib.suppress(PeerLostError):  # without the store there is no one left to tell
                say()

        teller = threading.Thread(target=speak, daemon=True)
        teller.start()
        await_at_exit(teller)
        teller.join(PARTING_S)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _say(self, message: Hello | Leave | Suspicion) -> None:
        """To rank 0, in the next round."""
        self._outbox.append(message.to_json())
        self._wake.set()

    def _tell_of_links(self) -> None:
        """In the links' own thread: what is silent has changed, and rank 0 should know it at once."""
        if self.leader is not None:
            self.leader.hear_of_links()
        self._links_changed = True
        self.beat_now()

    def _tell(self, failure: Failure) -> None:
        deadline = time.monotonic() + PARTING_S
        self._board.publish_failure(failure)
        self._board.put(f"bye/{self._rank}", "1")
        ranks = self.leader.ranks_to_tell() if self.leader is not None else []
        while time.monotonic() < deadline and not all(self._board.has(f"bye/{rank}") for rank in ranks):
            time.sleep(0.05)

    def _run(self) -> None:
        try:
            self._rounds()
        finally:
            self._links.stop()

    def _rounds(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(URGENT_POLL_S if self._urgent else POLL_S if self._rank else LEADER_POLL_S)
            self._wake.clear()
            now = time.monotonic()
            try:
                if self._stop.is_set() or self._round(now):
                    return
            except PeerLostError as error:
                if not self._stop.is_set() and not self._box.parting:
                    side = self.leader or self.follower
                    assert side is not None
                    side.store_failed(str(error))
                return
            if now - self.last_answer > self._detect_s / 2:  # this process itself was stopped for a while
                if self.leader is not None:
                    self.leader.stood_still(now)
                elif self.follower is not None:
                    self.follower.stood_still(now)
            self.answered(time.monotonic())

    def _round(self, now: float) -> bool:
        """One exchange with the store. True: nothing more is to come."""
        failure = self._board.failure()
        if failure is not None:
            self._box.put(failure)
            return True
        while self._outbox:
            self._board.append(NEWS, self._outbox.popleft())
        due = now >= self._next_beat
        if due:
            self._beat(now)
            if self._links_changed:
                self._links_changed = False
                self._board.append(NEWS, StoreSnapshot(rank=self._rank).to_json())
            self._find_links()
        if self.leader is not None:
            self.leader.listen(now, due or self._urgent)
            return False
        assert self.follower is not None
        return self.follower.listen(now, due)

    def _beat(self, now: float) -> None:
        self._next_beat = now + self._beat_s
        num_changes = self._num_changes
        self._count += 1
        state = self.follower.state if self.follower is not None else None
        ready = state.ready if state is not None else self.leader is not None and self.leader.ready
        beat = Beat(
            incarnation=state.incarnation if state is not None else self._own, count=self._count,
            left=state.left if state is not None else 0, ready=ready, link=self._links.own.identity,
            silent=self._links.silent(), load=self._load(),
        )  # fmt: skip
        if self._rank:  # before the beat, which is what rank 0 looks at
            self._board.put(figures_key(self._rank, beat.incarnation), self._figures().to_json())
        self._board.put(beat_key(self._rank, beat.incarnation), beat.to_text())
        if num_changes == self._num_changes:
            self._flushed.set()

    def _find_links(self) -> None:
        """Says where this rank's links end, and learns where the others' do."""
        if not self._placed:
            self._board.put(f"links/{self._rank}", self._links.place())
            self._placed = True
        for peer in self._links.wanted():
            place = self._board.get(f"links/{peer}")
            if place is not None:
                self._links.learn(peer, place)
