"""Rank 0's side of watching: writes the run's state while it is asked for, and does next to nothing else.

Those on this machine ask through files (`runs_here`). Those on others ask through the store, as ranks do, and read the
state there: the watcher proves that it knows the secret, and takes rank 0's word only under the run's seal. It is not a
member of anything. Who reads slowly, or never, keeps nobody waiting, since what it did not read is written over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgelaunch.common.failures import PeerLostError
from edgelaunch.watching.runs_here import RunHere

if TYPE_CHECKING:
    from edgelaunch.control.supervisor import Supervisor
    from edgelaunch.store.meeting import Board

__all__ = ["STATE", "WATCHED", "show_state"]

WATCHED, STATE = "watched", "state"
"""Keys of the store: where watchers write something new each second, and where rank 0 writes the state."""
EVERY_S, IDLE_S = 0.2, 0.5
ASKED_S = 3.0
"""So long the state is written after it was last asked for."""


class _StoreWatchers:
    """Those that ask through the store."""

    def __init__(self) -> None:
        self._board: Board | None = None
        self._asked: str | None = None
        self._asked_s = -ASKED_S

    def is_asked(self, runner: Supervisor, now: float) -> bool:
        if self._board is None:
            self._board = runner.store_board()
            if self._board is None:
                return False
        asked = self._board.get(WATCHED)
        if asked != self._asked:
            self._asked, self._asked_s = asked, now
        return now - self._asked_s < ASKED_S

    def write(self, text: str) -> None:
        if self._board is not None:
            self._board.put(STATE, text)


def show_state(runner: Supervisor, here: RunHere | None, log: Callable[[str], None]) -> None:
    """In a thread of rank 0's, until its run is over. Whatever goes wrong in it ends the watching, and not the run."""
    try:
        _show(runner, here)
    except PeerLostError:
        return  # the store is gone, which others tell
    except Exception as error:
        if not runner.over:
            log(f"the run can no longer be watched: {error}")
    finally:
        if here is not None:
            here.remove()


def _show(runner: Supervisor, here: RunHere | None) -> None:
    elsewhere, number = _StoreWatchers(), 0
    while not runner.over:
        now = time.monotonic()
        by_file, by_store = here is not None and here.is_asked, elsewhere.is_asked(runner, now)
        if by_file or by_store:
            number += 1
            text = runner.state(number).to_json()
            if by_store:
                elsewhere.write(text)
            if by_file and here is not None:
                here.write_state(text)
        time.sleep(EVERY_S if by_file or by_store else IDLE_S)
