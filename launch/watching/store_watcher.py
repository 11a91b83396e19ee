"""Watches a run from any machine through rank 0's store, as one who knows the secret. Imports torch."""

from __future__ import annotations

import secrets
import socket
import time

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.common.addresses import Address
from edgelaunch.common.failures import PeerLostError
from edgelaunch.common.identity import Endpoint
from edgelaunch.control.pipeline_state import PipelineState
from edgelaunch.process.waiting import Waiting
from edgelaunch.store.joining import WATCHER, join
from edgelaunch.store.meeting import Board
from edgelaunch.watching.watched_rank import STATE, WATCHED

__all__ = ["StoreWatcher"]

CONNECT_S = 5.0
ANSWER_S = 10.0
ASK_S = 1.0


class StoreWatcher:
    """Used by one thread."""

    def __init__(self, plan: Plan, master: Address, secret: bytes | None) -> None:
        """Raises UserError where nothing listens there, or it has another secret or another version."""
        _check_listens(master)
        endpoint = Endpoint(address=master.host, port=master.port, given=True)
        board = Board(endpoint, serve=False, timeout_s=ANSWER_S)
        try:
            board.seal = join(board, plan, WATCHER, secret, where=str(master), timeout_s=ANSWER_S, waiting=Waiting())
        except PeerLostError:
            raise UserError(f"the run at {master} ended") from None
        self._board = board
        self._asked_s = -ASK_S
        self._number = 0
        if (old := self._read()) is not None:
            self._number = old.number  # perhaps of a time when others watched

    def look(self) -> PipelineState | None:
        """The state, where it is newer than the last one; None: there is no newer one yet.

        Raises:
            PeerLostError: rank 0 is gone.
        """
        now = time.monotonic()
        if now - self._asked_s >= ASK_S:
            self._asked_s = now
            self._board.put(WATCHED, secrets.token_hex(8))
        state = self._read()
        if state is None or state.number <= self._number:
            return None
        self._number = state.number
        return state

    def _read(self) -> PipelineState | None:
        text = self._board.get(STATE)
        return PipelineState.from_json(text) if text is not None else None


def _check_listens(master: Address) -> None:
    try:
        socket.create_connection((master.host, master.port), timeout=CONNECT_S).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"nothing answers at {master} ({reason}): the pipeline has ended, or its rank 0 is elsewhere",
                        fix="name it with --master ADDRESS:PORT") from None  # fmt: skip
