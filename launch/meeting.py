"""How the ranks of one run find each other and agree, through a TCPStore: who is here, whose plan, who failed."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from edgecompile.plan import Plan, UserError
from edgelaunch.failures import Abandoned, AlreadyRunningError, Failure, FailureBox, PeerLostError, rank_name
from edgelaunch.identity import Endpoint

__all__ = ["Board", "Meeting"]

POLL_S = 0.02
FAREWELL_S = 1.5


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """A store that does not answer means that rank 0 is gone, or torchrun's agent on its machine."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(0, str(error)) from error


class Board:
    """One connection to the store that all ranks share. Each thread has a board of its own.

    Its methods raise PeerLostError(0) where the store does not answer any more.
    """

    def __init__(self, endpoint: Endpoint, *, serve: bool, timeout_s: float) -> None:
        """`serve`: this process owns the store and listens, on the endpoint's address alone.

        Raises:
            UserError: the port is taken, the address is not this machine's, or nobody answers within `timeout_s`.
        """
        where = f"{endpoint.address}:{endpoint.port}"
        timeout = timedelta(seconds=timeout_s)
        if serve:
            descriptor = endpoint.listen_fd if endpoint.listen_fd is not None else _listen(endpoint)
            store = TCPStore(endpoint.address, endpoint.port, None, True, timeout, False,
                                  master_listen_fd=descriptor)  # fmt: skip
        else:
            _await_answer(endpoint, timeout_s)
            try:
                store = TCPStore(endpoint.address, endpoint.port, None, False, timeout, False)
            except RuntimeError:
                raise UserError(
                    f"what listens at {where} is no edgelaunch rank 0: give --master ADDRESS:PORT"
                ) from None
        self.store: Store = PrefixStore(f"edgelaunch-{endpoint.prefix}", store)

    def put(self, key: str, value: str) -> None:
        with _answers():
            self.store.set(key, value)

    def has(self, key: str) -> bool:
        with _answers():
            return bool(self.store.check([key]))

    def get(self, key: str) -> str | None:
        """The value, or None where it is not there yet; never waits."""
        with _answers():
            return bytes(self.store.get(key)).decode() if self.store.check([key]) else None

    def count(self, key: str) -> int:
        with _answers():
            return int(self.store.add(key, 1))

    def publish_failure(self, failure: Failure) -> None:
        """Tells all ranks; the first one told is the one that counts."""
        with _answers():
            self.store.compare_set("failure", "", failure.to_json())

    def failure(self) -> Failure | None:
        text = self.get("failure")
        return Failure.from_json(text) if text else None


def _listen(endpoint: Endpoint) -> int:
    where = f"{endpoint.address}:{endpoint.port}"
    try:
        family, _, _, _, target = socket.getaddrinfo(endpoint.address, endpoint.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen(256)
            return listener.detach()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {endpoint.port} of {endpoint.address} is taken, perhaps by another rank 0: "
                f"stop that one, or give every rank --master {endpoint.address}:PORT"
            ) from None
        raise UserError(
            f"rank 0 cannot listen at {where} ({error.strerror}): give every rank --master ADDRESS:PORT "
            "with an address of this machine"
        ) from None


def _await_answer(endpoint: Endpoint, timeout_s: float) -> None:
    """Torch itself would print a warning for each attempt."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((endpoint.address, endpoint.port), timeout=max(0.1, min(5.0, timeout_s))).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"rank 0 did not answer at {endpoint.address}:{endpoint.port} within {timeout_s:g} s "
                    f"({error.strerror or error}): start rank 0, or give --master ADDRESS:PORT"
                ) from None
            time.sleep(0.1)


class Meeting:
    """What the ranks agree on before and after the stream. Used by one thread."""

    def __init__(self, board: Board, plan: Plan, rank: int, plan_sha256: str, box: FailureBox) -> None:
        self._board, self._plan, self._rank, self._sha256, self._box = board, plan, rank, plan_sha256, box

    def join(self) -> None:
        """Until all ranks are here with the same plan.

        Raises:
            UserError: a rank did not come within the plan's timeout, came twice, or has another plan; names it.
        """
        name = rank_name(self._plan, self._rank)
        if self._board.count(f"claims/{self._rank}") > 1:
            raise AlreadyRunningError(f"{name} runs already: start each rank once")
        entry = {"sha256": self._sha256, "machine": socket.gethostname()}
        self._board.put(f"joined/{self._rank}", json.dumps(entry))
        timeout_s = self._plan.runtime.timeout_s
        if self._rank:
            # rank 0 reports who is missing after its own timeout, which may have begun later than this one
            self._await("go", 2 * timeout_s, "rank 0 did not begin")
            return
        others = range(1, len(self._plan.hosts))
        missing = self._await_all("joined", timeout_s)
        if missing:
            names = ", ".join(rank_name(self._plan, rank) for rank in missing)
            raise UserError(f"{names} did not join within {timeout_s:g} s: start edgelaunch with the same plan there")
        for rank in others:
            if json.loads(self._board.get(f"joined/{rank}") or "{}").get("sha256") != self._sha256:
                raise UserError(
                    f"{rank_name(self._plan, rank)} has another plan than rank 0: copy the same plan to both"
                )
        self._board.put("go", "1")

    def all_ready(self) -> None:
        """Until every rank has loaded its shard. Has no deadline: heartbeats find a rank that stopped."""
        self._board.put(f"ready/{self._rank}", "1")
        self._await_all("ready", None)

    def give_timing(self, summary: dict[str, Any]) -> None:
        self._board.put(f"timing/{self._rank}", json.dumps(summary))

    def collect_timing(self) -> dict[int, dict[str, Any]]:
        """Each rank's summary; rank 0 calls this once the last result is there."""
        self._await_all("timing", None)
        ranks = range(len(self._plan.hosts))
        return {rank: json.loads(self._board.get(f"timing/{rank}") or "{}") for rank in ranks}

    def part(self) -> None:
        """The clean end: rank 0, which may own the store, goes last."""
        if self._rank:
            self._await("done", None, "")
            self._box.parting = True
            self._board.put(f"bye/{self._rank}", "1")
            return
        self._box.parting = True
        self._board.put("done", "1")
        deadline = time.monotonic() + FAREWELL_S
        while time.monotonic() < deadline and self._missing("bye"):
            time.sleep(POLL_S)

    def _await(self, key: str, timeout_s: float | None, message: str) -> None:
        begin = time.monotonic()
        while self._board.get(key) is None:
            self._breathe()
            if timeout_s is not None and time.monotonic() - begin > timeout_s:
                raise UserError(f"{message} within {timeout_s:g} s")

    def _await_all(self, prefix: str, timeout_s: float | None) -> list[int]:
        """The ranks that did not write their key in time."""
        begin = time.monotonic()
        while missing := self._missing(prefix):
            self._breathe()
            if timeout_s is not None and time.monotonic() - begin > timeout_s:
                return missing
        return []

    def _missing(self, prefix: str) -> list[int]:
        first = 1 if prefix == "bye" else 0
        return [rank for rank in range(first, len(self._plan.hosts)) if not self._board.has(f"{prefix}/{rank}")]

    def _breathe(self) -> None:
        if self._box.failure is not None or self._box.abandoned:
            raise Abandoned
        time.sleep(POLL_S)
