"""A store with rank 0's door, ranks that come to it, and a stranger who can write what he likes."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from types import TracebackType

from launch_harness import free_port
from torch._C._distributed_c10d import PrefixStore, TCPStore

from edgecompile.contract.plan import Plan
from edgelaunch.common.identity import Endpoint
from edgelaunch.process.waiting import Waiting
from edgelaunch.store.joining import Door, join
from edgelaunch.store.meeting import Board

PREFIX = "edgelaunch-"


def stranger_at(port: int) -> PrefixStore:
    """A client that knows no secret."""
    return PrefixStore(PREFIX, TCPStore("127.0.0.1", port, None, False, timedelta(seconds=5), False))


class Meeting:
    """Rank 0's side, with a thread that answers whoever asks."""

    def __init__(self, plan: Plan, secret: bytes | None) -> None:
        self.plan = plan
        self.endpoint = Endpoint(address="127.0.0.1", port=free_port())
        self.board = Board(self.endpoint, serve=True, timeout_s=5)
        self.door = Door(plan, secret)
        self.door.open(self.board)
        self.board.seal = self.door.seal
        self.stranger = stranger_at(self.endpoint.port)
        self.remarks: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def __enter__(self) -> Meeting:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _answer(self) -> None:
        board = Board(self.endpoint, serve=False, timeout_s=5)
        while not self._ended.wait(0.005):
            self.remarks.extend(self.door.answer(board, time.monotonic()))

    def join(self, secret: bytes | None, rank: int = 1, timeout_s: float = 5.0) -> Board:
        """A rank's board, once it has proved that it knows the secret, and rank 0 too."""
        board = Board(self.endpoint, serve=False, timeout_s=5)
        board.seal = join(board, self.plan, rank, secret, where="there", timeout_s=timeout_s, waiting=Waiting())
        return board
