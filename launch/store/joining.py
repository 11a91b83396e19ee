"""The join handshake: a rank asks with its own nonce, and rank 0 answers it under the shared secret.

    rank N                                          rank 0
    join/K: its rank, nonce and software    ->
                                            <-      welcome/NONCE: its software, and the run's nonce

Both texts carry an HMAC with the secret; the answer's covers the asker's nonce too. What was recorded of an earlier run
answers another nonce, so a rank that joins cannot mistake that run for this one. Request and answer have the same form
in every version, whatever else changes, so that ranks of different versions can report the mismatch.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.common.failures import rank_name
from edgelaunch.common.secret import HOW, VARIABLE, sign
from edgelaunch.common.software import Software, mismatch
from edgelaunch.process.waiting import Waiting
from edgelaunch.store.list_reader import ListReader
from edgelaunch.store.meeting import Board
from edgelaunch.store.seal import Seal

if TYPE_CHECKING:
    from edgelaunch.common.rank_options import RankOptions

__all__ = ["WATCHER", "Door", "Signed", "greeting", "join", "meet"]

GREETING = "charter"
"""Rank 0's software, for whoever looks (`edgelaunch doctor`); not sealed, so that it proves nothing."""
REQUESTS = "join"
WATCHER = -1
"""In a rank's place: who asks only watches, and is not a member of anything."""
OLD_REFUSED = "refused"
"""Where a rank of protocol 1, which finds no nonce in the greeting, says that it was refused."""
NONCE_BYTES = 16
POLL_S = 0.02
PATIENCE_S = 5.0
"""So long a request may be announced and not be there."""
MOST_REMARKS = 100
"""At most so many rejected processes are reported: anything that reaches the store can try again and again."""


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A text and what proves who wrote it; `None` where the writer has no secret."""

    mac: bytes | None
    body: str

    @staticmethod
    def of(secret: bytes | None, purpose: str, body: str, nonce: bytes = b"") -> Signed:
        return Signed(mac=sign(secret, purpose, nonce, body.encode()) if secret is not None else None, body=body)

    @staticmethod
    def read(text: str) -> Signed | None:
        mac, space, body = text.partition(" ")
        try:
            return Signed(mac=bytes.fromhex(mac) or None, body=body) if space else None
        except ValueError:
            return None

    def text(self) -> str:
        return f"{(self.mac or b'').hex()} {self.body}"

    def proves(self, secret: bytes, purpose: str, nonce: bytes = b"") -> bool:
        return hmac.compare_digest(self.mac or b"", sign(secret, purpose, nonce, self.body.encode()))

    def values(self) -> dict[str, Any]:
        """Of a JSON object; empty for anything else."""
        try:
            values = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return values if isinstance(values, dict) else {}


def _bytes(values: dict[str, Any], key: str) -> bytes:
    """A nonce; empty where there is none."""
    text = values.get(key)
    try:
        nonce = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""
    return nonce if len(nonce) == NONCE_BYTES else b""


def meet(options: RankOptions) -> tuple[Board, Door | None]:
    """Connects to the store, which is rank 0's, and agrees on what seals it: in the board. The door is rank 0's alone.

    Raises:
        UserError: as `join` and Board do.
        PeerLostError: the store does not answer.
    """
    endpoint, timeout_s = options.endpoint, options.plan.runtime.timeout_s
    waiting = Waiting(partial(options.log, event="waiting"))
    serve = options.rank == 0 and not endpoint.agent
    board, door = Board(endpoint, serve=serve, timeout_s=timeout_s, waiting=waiting), None
    if options.rank == 0:
        door = Door(options.plan, options.secret)
        door.open(board)
        board.seal = door.seal
    else:
        where = f"{endpoint.address}:{endpoint.port}"
        board.seal = join(board, options.plan, options.rank, options.secret, where=where, timeout_s=timeout_s,
                          waiting=waiting)  # fmt: skip
    return board, door


# --- rank 0 ----------------------------------------------------------------------------------------------------------


class Door:
    """Rank 0's side: answers whoever asks, and says whom it rejects. Used by one thread at a time."""

    def __init__(self, plan: Plan, secret: bytes | None) -> None:
        self._plan, self._secret, self._software = plan, secret, Software.own()
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self.seal = Seal(secret, self._nonce) if secret is not None else None
        """Of this run's values; None where all ranks are on one machine and have no secret."""
        self.turned_away: dict[int, str] = {}
        """By rank: why the one that came last as this rank could not join."""
        self._requests: ListReader | None = None
        self._num_remarks = self._num_refused = 0

    def open(self, board: Board) -> None:
        """Says what this rank 0 runs on, for whoever looks."""
        values = {"sealed": self.seal is not None, **self._software.values()}
        board.plain().put(GREETING, json.dumps(values))

    def answer(self, board: Board, now: float) -> Iterator[str]:
        """Answers the requests since the last call; what rank 0 should log of them. `board`: of this thread."""
        plain = board.plain()
        if self._requests is None:
            self._requests = ListReader(plain, REQUESTS, PATIENCE_S)
        for text in self._requests.new(now):
            request = Signed.read(text)
            values = request.values() if request is not None else {}
            nonce, rank = _bytes(values, "nonce"), values.get("rank")
            if request is None or not nonce or not isinstance(rank, int):
                continue
            plain.put(f"welcome/{nonce.hex()}", self._welcome(nonce).text())
            remark = self._remark(request, values, rank)
            if remark and self._num_remarks < MOST_REMARKS:
                self._num_remarks += 1
                yield remark
        yield from self._refused_by_old_ranks(plain)

    def _welcome(self, nonce: bytes) -> Signed:
        run = self._nonce.hex() if self.seal is not None else ""
        return Signed.of(self._secret, "welcome", json.dumps({"run": run, **self._software.values()}), nonce)

    def _remark(self, request: Signed, values: dict[str, Any], rank: int) -> str:
        name = "a watcher" if rank == WATCHER else rank_name(self._plan, rank)
        if self._secret is not None and not request.proves(self._secret, "join"):
            reason = "did not present the secret" if request.mac is None else "has a different secret"
        elif self._secret is None and request.mac is not None:
            reason = "presented a secret, but this rank 0 was started without one"
        else:
            theirs = Software.read(values)
            if theirs is None:
                return ""
            wrong = mismatch(name, theirs, rank_name(self._plan, 0), self._software)
            if wrong is None:
                self.turned_away.pop(rank, None)
                unlike = theirs.unlike(self._software)
                own = self._software.unlike(theirs)
                if rank == WATCHER:
                    return ""
                return f"{name} has {unlike}, and this rank {own}" if unlike else ""
            self.turned_away[rank] = str(wrong)
            return f"rejected: {wrong}"
        if rank != WATCHER:
            self.turned_away[rank] = f"{name} {reason}"
        return f"{name} {reason}: rejected"

    def _refused_by_old_ranks(self, plain: Board) -> Iterator[str]:
        if self._secret is None:
            return
        while self._num_refused < min(plain.num_appended(OLD_REFUSED), MOST_REMARKS):
            self._num_refused += 1
            text = plain.get(f"{OLD_REFUSED}/{self._num_refused}") or ""
            if text.isdecimal() and len(text) < 6:
                yield (f"{rank_name(self._plan, int(text))} has an older edgecompile, or another secret: rejected: "
                       "install the same version of edgecompile on both")  # fmt: skip


# --- the other ranks -------------------------------------------------------------------------------------------------


def greeting(board: Board) -> Software | None:
    """What rank 0 says that it runs on; None where it says nothing, or is of protocol 1."""
    return Software.read(Signed(mac=None, body=board.plain().get(GREETING) or "").values())


def join(
    board: Board, plan: Plan, rank: int, secret: bytes | None, *, where: str, timeout_s: float, waiting: Waiting
) -> Seal | None:
    """Proves to rank 0 that this rank knows the secret, and has it prove the same, now.

    Args:
        rank: WATCHER: it only watches.
        where: rank 0's address and port, for messages.

    Returns:
        What seals this run's values; None where all ranks are on one machine and have no secret.

    Raises:
        UserError: rank 0 has another secret or another protocol, or one of both has no secret; or it does not answer
            within `timeout_s`.
        PeerLostError: the store does not answer.
    """
    plain, own, name = board.plain(), Software.own(), rank_name(plan, 0)
    ours = "watcher" if rank == WATCHER else "rank"
    nonce = secrets.token_bytes(NONCE_BYTES)
    body = json.dumps({"rank": rank, "nonce": nonce.hex(), **own.values()})
    plain.append(REQUESTS, Signed.of(secret, "join", body).text())
    deadline = time.monotonic() + timeout_s
    while (text := plain.get(f"welcome/{nonce.hex()}")) is None:
        if time.monotonic() > deadline:
            raise UserError(_silence(plain, name, where, timeout_s))
        waiting.tell(f"the answer of {name} at {where}", timeout_s)
        time.sleep(POLL_S)
    if rank == WATCHER:  # they come and go, as often as they like
        plain.forget(f"welcome/{nonce.hex()}")
    answer = Signed.read(text) or Signed(mac=None, body="")
    run = _bytes(answer.values(), "run")
    if secret is None and (run or answer.mac):
        raise UserError(f"rank 0 asks for a shared secret, and this {ours} has none: {HOW}")
    if secret is not None and not answer.mac:
        raise UserError(f"rank 0 was started without the secret that this {ours} has: set {VARIABLE} there too")
    if secret is not None and not answer.proves(secret, "welcome", nonce):
        raise UserError(
            f"the secret of this {ours} is not rank 0's: give every rank the same ({VARIABLE} or --secret-file)"
        )
    theirs = Software.read(answer.values())
    if theirs is None:
        raise UserError(f"what answers at {where} is not an edgelaunch rank 0", fix="give --master ADDRESS:PORT")
    wrong = mismatch(rank_name(plan, rank) if rank != WATCHER else "this watcher", own, name, theirs)
    if wrong is not None:
        raise wrong
    return Seal(secret, run) if secret is not None else None


def _silence(plain: Board, name: str, where: str, timeout_s: float) -> str:
    there = plain.get(GREETING)
    if plain.holds(GREETING) and (there is None or there == "open"):
        return (f"{name} at {where} did not answer within {timeout_s:g} s, and seems to have an older edgecompile: "
                "install the same version of edgecompile on both")  # fmt: skip
    return f"{name} did not join within {timeout_s:g} s: start edgelaunch with the same plan there"
