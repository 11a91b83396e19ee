"""The ranks' shared state in a TCPStore: which ranks are present, which plan they have, which failed."""

from __future__ import annotations

import contextlib
import copy
import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from edgecompile.contract.errors import UserError
from edgelaunch.common.failures import Abandoned, Failure, PeerLostError
from edgelaunch.common.identity import Endpoint
from edgelaunch.common.rank_summary import RankSummary
from edgelaunch.process.abandoned_threads import await_at_exit
from edgelaunch.process.limits import local_shortage
from edgelaunch.process.waiting import Waiting
from edgelaunch.store.seal import Seal, SealedStore
from edgelaunch.store.tcp_store import serve_store

__all__ = ["Board", "Meeting"]

POLL_S = 0.005


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """A store that does not answer means that rank 0 is gone, or torchrun's agent on its machine."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(0, str(error)) from error


class Board:
    """One connection to the store that all ranks share. Each thread has a board of its own.

    Its methods raise PeerLostError(0) where the store no longer answers.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        serve: bool,
        timeout_s: float,
        seal: Seal | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        """`serve`: this process owns the store and listens, on the endpoint's address alone. `seal`: what joining gave.

        `waiting`: says that rank 0 is waited for, where it is.

        Raises:
            UserError: the port is taken, the address is not this machine's, or nothing answers within `timeout_s`; or
                this process may open no more files.
        """
        timeout = timedelta(seconds=timeout_s)
        if serve:
            descriptor = endpoint.listen_fd if endpoint.listen_fd is not None else _listen(endpoint)
            store = serve_store(endpoint.address, endpoint.port, descriptor, timeout)
        else:
            _await_answer(endpoint, timeout_s, waiting or Waiting())
            store = _connect(endpoint, timeout)
        self._store: Store = PrefixStore(f"edgelaunch-{endpoint.prefix}", store)
        self.seal = seal

    def plain(self) -> Board:
        """The same connection, for what is said before there is a seal; what it reads proves nothing."""
        board = copy.copy(self)
        board.seal = None
        return board

    def holds(self, key: str) -> bool:
        """Whether there is anything under this key, whoever wrote it."""
        return self._read(key)[0]

    def group_store(self, prefix: str) -> Store:
        """For one process group to meet through; `prefix` is its alone."""
        if self.seal is None:
            return PrefixStore(prefix, self._store)
        return SealedStore(self._store, self.seal, prefix)

    def put(self, key: str, value: str) -> None:
        plain = value.encode()
        with _answers():
            sealed = plain if self.seal is None else self.seal.seal(key, plain)
            self._store.set(key, sealed)  # type: ignore[arg-type]

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def get(self, key: str) -> str | None:
        """The value, or None where it is missing or was written by a process without the secret; never waits."""
        return self._read(key)[1]

    def _read(self, key: str) -> tuple[bool, str | None]:
        """Whether there is something, and what; None where a process without the secret wrote it."""
        with _answers():
            if not self._store.check([key]):
                return False, None
            value: bytes | None = bytes(self._store.get(key))
        if self.seal is not None:
            value = self.seal.open(key, value or b"")
        try:
            return True, None if value is None else value.decode()
        except UnicodeDecodeError:
            return True, None

    def forget(self, key: str) -> None:
        with _answers():
            self._store.delete_key(key)

    def append(self, name: str, text: str) -> None:
        """Adds a text to a list that any rank may add to."""
        with _answers():
            number = self._store.add(name, 1)
        self.put(f"{name}/{number}", text)

    def num_appended(self, name: str) -> int:
        with _answers():
            return int(self._store.add(name, 0))

    def take(self, name: str, number: int) -> str | None:
        """Removes a list's text, counted from 1.

        None where it was announced, but is not there yet; "" where a process without the secret wrote it.
        """
        there, text = self._read(f"{name}/{number}")
        if not there:
            return None
        with _answers():
            self._store.delete_key(f"{name}/{number}")
        return text or ""

    def publish_failure(self, failure: Failure) -> None:
        """Tells all ranks; the first one told is the one that counts."""
        text = failure.to_json()
        sealed = text if self.seal is None else self.seal.seal("failure", text.encode()).hex()
        with _answers():
            told = bytes(self._store.compare_set("failure", "", sealed)).decode(errors="replace")
            if told != sealed and self._failure_in(told) is None:  # written without the secret
                self._store.set("failure", sealed)

    def failure(self) -> Failure | None:
        with _answers():
            if not self._store.check(["failure"]):
                return None
            told = bytes(self._store.get("failure")).decode(errors="replace")
        return self._failure_in(told)

    def _failure_in(self, told: str) -> Failure | None:
        """None where a process without the secret wrote it."""
        if self.seal is None:
            return Failure.from_json(told)
        try:
            value = self.seal.open("failure", bytes.fromhex(told))
        except ValueError:
            return None
        return Failure.from_json(value.decode()) if value is not None else None


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
        if (shortage := local_shortage(error)) is not None:
            raise UserError(shortage) from None
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {endpoint.port} of {endpoint.address} is in use, perhaps by another rank 0: "
                f"stop that one, or give every rank --master {endpoint.address}:PORT"
            ) from None
        raise UserError(
            f"rank 0 cannot listen on {where} ({error.strerror}): give every rank --master ADDRESS:PORT "
            "with an address of this machine"
        ) from None


def _connect(endpoint: Endpoint, timeout: timedelta) -> TCPStore:
    """Connects as a client. In a thread: a server that takes the connection and says nothing is waited for
    forever, whatever the timeout."""
    made: list[TCPStore] = []
    failed: list[RuntimeError] = []

    def connect() -> None:
        try:
            made.append(TCPStore(endpoint.address, endpoint.port, None, False, timeout, False))
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=connect, name="connect", daemon=True)
    thread.start()
    thread.join(timeout.total_seconds())
    if made:
        return made[0]
    if not failed:
        await_at_exit(thread)
    elif (shortage := local_shortage(failed[0])) is not None:
        raise UserError(shortage)
    raise UserError(
        f"what listens on {endpoint.address}:{endpoint.port} is not an edgelaunch rank 0",
        fix="give --master ADDRESS:PORT",
    )


def _await_answer(endpoint: Endpoint, timeout_s: float, waiting: Waiting) -> None:
    """Torch itself would print a warning for each attempt."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((endpoint.address, endpoint.port), timeout=max(0.1, min(5.0, timeout_s))).close()
            return
        except OSError as error:
            if (shortage := local_shortage(error)) is not None:
                raise UserError(shortage) from None
            if time.monotonic() >= deadline:
                raise UserError(
                    f"rank 0 did not answer at {endpoint.address}:{endpoint.port} within {timeout_s:g} s "
                    f"({error.strerror or error}): start rank 0, or give --master ADDRESS:PORT"
                ) from None
            waiting.tell(f"rank 0 at {endpoint.address}:{endpoint.port}", timeout_s)
            time.sleep(0.1)


class Meeting:
    """What the ranks of one epoch agree on through the store. Used by one thread."""

    def __init__(self, board: Board, number: int, group: Sequence[int], abandoned: Callable[[], bool]) -> None:
        """`group`: the ranks that take part. `abandoned`: whether this rank has left the epoch."""
        self._board, self._number, self._group, self._abandoned = board, number, group, abandoned

    def all_ready(self, rank: int) -> None:
        """Until every rank has its shard. Has no deadline: heartbeats find a rank that stopped.

        Raises:
            Abandoned: the epoch was given up.
        """
        self._board.put(self._key("ready", rank), "1")
        for other in self._group:
            while not self._board.has(self._key("ready", other)):
                if self._abandoned():
                    raise Abandoned
                time.sleep(POLL_S)

    def give_summary(self, rank: int, summary: RankSummary) -> None:
        self._board.put(self._key("summary", rank), summary.to_json())

    def summary(self, rank: int) -> RankSummary | None:
        """A rank's, once it has given it; never waits."""
        text = self._board.get(self._key("summary", rank))
        return RankSummary.from_json(text) if text is not None else None

    def _key(self, what: str, rank: int) -> str:
        return f"{what}/{self._number}/{rank}"
