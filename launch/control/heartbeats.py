"""Sends heartbeats and receives announcements, in one thread with its own connection to the store."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgecompile.contract.plan import Plan
from edgelaunch.common.detection import STORE_PATIENCE, beat_s
from edgelaunch.common.failures import Failure, FailureBox, PeerLostError, TooLateError, rank_name
from edgelaunch.control.membership import (
    DONE,
    HALT,
    RUN,
    Announcement,
    Beat,
    Hello,
    Holder,
    Leave,
    StoreSnapshot,
    Suspicion,
    read_news,
)
from edgelaunch.control.pace import Load
from edgelaunch.control.roster import LATE, Roster
from edgelaunch.process.abandoned_threads import await_at_exit
from edgelaunch.process.processes import Process
from edgelaunch.store.joining import Door
from edgelaunch.store.meeting import Board, ListReader
from edgelaunch.transport.link_watch import LinkWatch

__all__ = ["Watch"]

NEWS = "news"
WAITS_FOR = "waits-for"
"""Whom rank 0 waits for, in words, for the others to say."""
POLL_S = 0.3
LEADER_POLL_S = 0.2
URGENT_POLL_S = 0.01
FAREWELL_S = 1.5
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
        door: Door | None = None,
    ) -> None:
        """`links`: this rank's; `load`: what this rank has done, to be said with each beat. `door`: rank 0's, for those
        who come."""
        self._links = links
        self._load, self._door = load, door
        self._board, self._plan, self._rank, self._sha256, self._box = board, plan, rank, sha256, box
        self._detect_s, self._beat_s = plan.runtime.detect_s, beat_s(plan)
        self.roster = Roster(plan, sha256) if rank == 0 else None
        self.incarnation = secrets.token_hex(8)
        """Tells this process, or what it came back as, from all others that had its rank."""
        self.announcement: Announcement | None = None
        """The latest of rank 0's; not kept on rank 0 itself."""
        self.verdict: str | None = None
        """What rank 0 said of this incarnation: "" that it is out, else why it is rejected."""
        self.waits_for = ""
        """Whom rank 0 waits for, as it says; not kept on rank 0 itself."""
        self._urgent = True  # until `hurry` says otherwise: the first epoch is about to form
        self.last_answer = time.monotonic()
        """When the store last answered. A call to it can hang whatever its timeout: the main thread looks at this."""
        self._outbox: deque[str] = deque()
        self._beat = Beat(incarnation=self.incarnation, count=0, left=0, ready=False, link=links.own.identity)
        self._links_changed = self._placed = False
        self._lock = threading.Lock()
        """Of the beat, which other threads change."""
        self._next_beat = 0.0
        self._holder = ""
        """The latest holder of this rank's place that was found to be gone."""
        self._news = ListReader(board, NEWS, self._detect_s)
        self._leader: tuple[Beat | None, float] = (None, time.monotonic())
        if self.roster is not None:
            self.roster.own_link = links.own.identity
        self._wake, self._stop, self._flushed = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        if rank:
            self._say_hello()
        links.changed = self._tell_of_links
        self._thread.start()

    # --- any thread's side -------------------------------------------------------------------------------------------

    def suspect(self, number: int, lost: int, reason: str) -> None:
        """Tells rank 0 that a connection of this epoch broke."""
        suspicion = Suspicion(rank=self._rank, number=number, lost=lost, reason=reason)
        if self.roster is not None:
            self.roster.suspect(suspicion)
            self._box.wake()
            return
        self._outbox.append(suspicion.to_json())
        self._wake.set()

    def set_ready(self, ready: bool) -> None:
        """Whether this rank has its shard. Returns once rank 0 can know, or after a second."""
        self._change(ready=ready)
        self._flushed.wait(FLUSH_S)

    def set_left(self, number: int) -> None:
        """This rank has left an epoch."""
        self._change(left=number)

    def renew(self) -> None:
        """Asks for this rank's place again, as another incarnation."""
        self.incarnation = secrets.token_hex(8)
        self.verdict = None
        self._say_hello()
        self._change(incarnation=self.incarnation)

    def hurry(self, urgent: bool) -> None:
        """Whether news is looked for more often: an epoch is being left or formed, or all is through."""
        if urgent and not self._urgent:
            self._wake.set()
        self._urgent = urgent

    def silent_s(self, now: float) -> float:
        """How long nothing has come from rank 0: neither an answer of its store nor, within reason, a sign of life."""
        store_s, sign = now - self.last_answer, self._links.last_sign(0)
        if sign is None or store_s > STORE_PATIENCE * (self._detect_s + sign.more_s):
            return store_s
        return min(store_s, max(0.0, now - sign.at - sign.more_s))

    def stop(self) -> None:
        self._links.stop()
        self._stop.set()
        self._wake.set()
        await_at_exit(self._thread)

    def told_all(self, failure: Failure) -> None:
        """Publishes this rank's failure and, on rank 0, stays until the others have read it; at most 1.5 s."""
        self._last_words(lambda: self._tell(failure))

    def leave(self, reason: str) -> None:
        """Tells rank 0 that this rank goes; at most 1.5 s."""
        leave = Leave(rank=self._rank, incarnation=self.incarnation, reason=reason)
        self._last_words(lambda: self._board.append(NEWS, leave.to_json()))

    def _last_words(self, say: Callable[[], None]) -> None:
        self.stop()

        def speak() -> None:
            self._thread.join(FAREWELL_S)  # the board is the watch thread's until it ends
            with contextlib.suppress(PeerLostError):  # without the store there is no one left to tell
                say()

        teller = threading.Thread(target=speak, daemon=True)
        teller.start()
        await_at_exit(teller)
        teller.join(FAREWELL_S)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _say_hello(self) -> None:
        hello = Hello(rank=self._rank, incarnation=self.incarnation, sha256=self._sha256, process=Process.own())
        self._outbox.append(hello.to_json())

    def _tell_of_links(self) -> None:
        """In the links' own thread: what is silent has changed, and rank 0 should know it at once."""
        silent = self._links.silent()
        if self.roster is not None:
            self.roster.own_silent = silent
            self._box.wake()
        self._links_changed = True
        self._change(silent=silent)

    def _change(self, **values: Any) -> None:
        with self._lock:
            self._flushed.clear()
            self._beat = replace(self._beat, **values)
            self._next_beat = 0.0
        self._wake.set()

    def _tell(self, failure: Failure) -> None:
        deadline = time.monotonic() + FAREWELL_S
        self._board.publish_failure(failure)
        self._board.put(f"bye/{self._rank}", "1")
        ranks = list(self.roster.states()) if self.roster is not None else []
        if self.roster is not None and self.roster.wrong_plan is not None:
            ranks.append(self.roster.wrong_plan)
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
                if self.announcement is not None and self.announcement.phase == DONE:
                    self._box.put(Failure.of(self._rank, TooLateError(LATE)))
                elif not self._stop.is_set() and not self._box.parting:
                    message = f"{rank_name(self._plan, 0)} is gone: its store no longer answers"
                    self._box.put(Failure.unreachable(message, str(error)))
                return
            if now - self.last_answer > self._detect_s / 2:  # this process itself was stopped for a while
                self._leader = (None, now)
                if self.roster is not None:
                    self.roster.forgive(now)
            self.last_answer = time.monotonic()

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
            load = self._load()
            with self._lock:
                self._next_beat = now + self._beat_s
                beat = self._beat = replace(self._beat, count=self._beat.count + 1, load=load)
            self._board.put(_beat_key(self._rank, beat.incarnation), beat.to_text())
            with self._lock:
                if beat is self._beat:
                    self._flushed.set()
            if self._links_changed:
                self._links_changed = False
                self._board.append(NEWS, StoreSnapshot(rank=self._rank).to_json())
            self._find_links()
        if self.roster is not None:
            self._listen_to_all(self.roster, now, due or self._urgent)
            return False
        return self._listen_to_leader(now, due)

    def _find_links(self) -> None:
        """Says where this rank's links end, and learns where the others' do."""
        if not self._placed:
            self._board.put(f"links/{self._rank}", self._links.place())
            self._placed = True
        for peer in self._links.wanted():
            place = self._board.get(f"links/{peer}")
            if place is not None:
                self._links.learn(peer, place)

    def _note_signs(self, roster: Roster) -> None:
        for rank in roster.states():
            sign = self._links.last_sign(rank)
            if sign is not None:
                roster.take_sign(rank, sign.identity, sign.at, sign.more_s)

    def _listen_to_all(self, roster: Roster, now: float, due: bool) -> None:
        if self._door is not None:
            for remark in self._door.answer(self._board, now):
                roster.remark(remark)
                self._box.wake()
        for text in self._news.new(now):
            if not text:  # announced and never written, or written by a process without the secret
                roster.remark("ignoring what a process without the secret wrote into the store")
                continue
            news = read_news(text)
            if isinstance(news, Hello):
                roster.take_hello(news, now)
            elif isinstance(news, Leave):
                roster.take_leave(news)
            elif isinstance(news, Suspicion):
                roster.suspect(news)
            else:
                due = True
            self._box.wake()
        self._note_signs(roster)
        if due:
            for rank, state in roster.states().items():
                beat = self._board.get(_beat_key(rank, state.incarnation))
                if beat is not None:
                    roster.take_beat(rank, Beat.from_text(beat), now)
            roster.look(now)
            self._box.wake()
        self._answer_ranks(roster)

    def _answer_ranks(self, roster: Roster) -> None:
        while roster.verdicts:
            incarnation, verdict = roster.verdicts.popitem()
            self._board.put(f"verdict/{incarnation}", verdict)
        while roster.holders:
            incarnation, holder = roster.holders.popitem()
            self._board.put(f"holder/{incarnation}", holder.to_json())

    def _listen_to_leader(self, now: float, due: bool) -> bool:
        text = self._board.get("announcement")
        if text is not None:
            announcement = Announcement.from_json(text)
            if announcement.is_after(self.announcement):
                self.announcement = announcement
                if announcement.phase == HALT:
                    self._change(left=announcement.number)
                if announcement.phase == DONE and self._is_member():
                    self._finish()
                    return True
                self._box.wake()
        if due:
            if not self._is_member():
                self._look_at_holder()
            if self.announcement is None or self.announcement.phase != RUN:
                self.waits_for = self._board.get(WAITS_FOR) or ""
            verdict = self._board.get(f"verdict/{self.incarnation}")
            if verdict is not None and verdict != self.verdict:
                self.verdict = verdict
                self._box.wake()
            self._listen_for_beats(now)
        return False

    def _is_member(self) -> bool:
        """Whether rank 0 counts this process itself among the ranks that are there."""
        return self.announcement is not None and self.announcement.members.get(self._rank) == self.incarnation

    def _look_at_holder(self) -> None:
        """Another process has this rank's place: if it was on this machine, whether it runs can be seen here."""
        text = self._board.get(f"holder/{self.incarnation}")
        if text is None or text == self._holder:
            return
        holder = Holder.from_json(text)
        if holder.process.has_ended():
            self._holder = text
            leave = Leave(rank=self._rank, incarnation=holder.incarnation, reason="is gone: its process has ended")
            self._board.append(NEWS, leave.to_json())

    def _finish(self) -> None:
        """All results are there: this rank, which has a place, may end."""
        self._box.parting = True
        self._board.put(f"bye/{self._rank}", "1")
        self._box.finish()

    def _listen_for_beats(self, now: float) -> None:
        text = self._board.get(_beat_key(0, ""))
        beat = Beat.from_text(text) if text is not None else None
        seen, since = self._leader
        if seen is None or (beat is not None and beat.is_after(seen)):
            self._leader = (beat, now)
            return
        beat, sign = seen, self._links.last_sign(0)
        if sign is not None and now - since < STORE_PATIENCE * (self._detect_s + sign.more_s):
            since = max(since, sign.at + sign.more_s)
        limit_s = self._detect_s if beat.ready else max(self._detect_s, self._plan.runtime.timeout_s)
        if now - since > limit_s:
            message = f"{rank_name(self._plan, 0)} stopped answering {now - since:.1f} s ago"
            self._box.put(Failure.unreachable(message))


def _beat_key(rank: int, incarnation: str) -> str:
    """Each process beats for itself: two that want one rank would hide each other's beats. Rank 0 is there once."""
    return f"beat/{rank}/{incarnation}" if rank else "beat/0"
