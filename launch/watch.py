"""Heartbeats and news of failures: one thread a rank with its own connection to the store."""

from __future__ import annotations

import contextlib
import threading
import time

from edgecompile.plan import Plan
from edgelaunch.failures import Failure, FailureBox, PeerLostError, rank_name
from edgelaunch.left_behind import await_at_exit
from edgelaunch.meeting import Board

__all__ = ["Watch"]

POLL_S = 0.25
BEAT_S = 1.0
FAREWELL_S = 1.5


class Watch:
    """Beats for this rank, listens for the others' beats, and passes a failure on in both directions.

    Rank 0 listens to all, the others to rank 0: what rank 0 finds it publishes. Operation timeouts play no part: a slow
    stage or a quiet source is no failure, and one timed-out gloo operation closes the whole group.
    """

    def __init__(self, board: Board, plan: Plan, rank: int, box: FailureBox) -> None:
        self._board, self._plan, self._rank, self._box = board, plan, rank, box
        # a beat is up to this old when it is seen, and the ranks are to end within the plan's timeout
        self._timeout_s = max(plan.runtime.timeout_s - 2 * BEAT_S, min(plan.runtime.timeout_s, 2 * BEAT_S))
        self._stop = threading.Event()
        self._listened_to = [0] if rank else list(range(1, len(plan.hosts)))
        self._last_beat: dict[int, tuple[str | None, float]] = {}
        self.joined = threading.Event()
        """Set once all ranks have come together; before, a rank that does not beat is not missed."""
        self.last_answer = time.monotonic()
        """When the store last answered. A call to it can hang whatever its timeout: the main thread looks at this."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        await_at_exit(self._thread)

    def told_all(self, failure: Failure) -> None:
        """Publishes this rank's failure and, on rank 0, stays until the others have read it; at most 1.5 s."""
        self.stop()
        teller = threading.Thread(target=self._tell, args=(failure,), daemon=True)
        teller.start()
        await_at_exit(teller)
        teller.join(FAREWELL_S)

    def _tell(self, failure: Failure) -> None:
        deadline = time.monotonic() + FAREWELL_S
        self._thread.join(FAREWELL_S)  # the board is the watch thread's until it ends
        with contextlib.suppress(PeerLostError):  # without the store nobody is left to tell
            self._board.publish_failure(failure)
            self._board.put(f"bye/{self._rank}", "1")
            while not self._rank and time.monotonic() < deadline and not self._all_read():
                time.sleep(0.05)

    def _all_read(self) -> bool:
        ranks = [rank for rank in range(1, len(self._plan.hosts)) if self._board.has(f"joined/{rank}")]
        return all(self._board.has(f"bye/{rank}") for rank in ranks)

    def _run(self) -> None:
        beat, next_beat = 0, 0.0
        while not self._stop.wait(POLL_S):
            now = time.monotonic()
            try:
                failure = self._board.failure()
                if failure is not None:
                    self._box.put(failure)
                    return
                if now >= next_beat:
                    beat += 1
                    next_beat = now + BEAT_S
                    self._board.put(f"beat/{self._rank}", str(beat))
                    self._listen(now)
            except PeerLostError as error:
                if not self._stop.is_set():
                    message = f"{rank_name(self._plan, 0)} is gone: its store does not answer any more"
                    self._box.put(Failure(rank=0, kind="lost", message=message, trace=str(error)))
                return
            if now - self.last_answer > self._timeout_s / 2:
                self._last_beat.clear()  # this process itself was stopped for a while: nobody is to blame
            self.last_answer = time.monotonic()

    def _listen(self, now: float) -> None:
        if not self.joined.is_set():
            return
        for rank in self._listened_to:
            beat = self._board.get(f"beat/{rank}")
            seen, since = self._last_beat.get(rank, (None, now))
            if beat != seen or rank not in self._last_beat:
                self._last_beat[rank] = (beat, now)
            elif now - since > self._timeout_s:
                message = f"{rank_name(self._plan, rank)} stopped answering {now - since:.1f} s ago"
                failure = Failure(rank=rank, kind="lost", message=message)
                self._board.publish_failure(failure)
                self._box.put(failure)
                return
