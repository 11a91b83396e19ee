"""The authenticated light connection that shows whether a link is alive.

The listener's address stands in the store under the run's seal. Who connects must know the seal, and so must who
answers: each seals what the other drew. An outsider can neither keep a cut link alive nor make one look cut.

    connector                         listener
        magic, rank, identity, nonce  ->
        <-  nonce, seal of both nonces by the listener
        seal of both nonces by the connector  ->
        .   <- one byte a tick, both ways ->   .
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import socket
import struct
import time
from dataclasses import dataclass

from edgelaunch.store.seal import MAC_BYTES, Seal
from edgelaunch.transport.tcp_info import kernel_of, put_first

__all__ = ["IDENTITY_BYTES", "Heard", "LivenessConnection", "Party", "Refused"]

MAGIC = b"edgelink"
NONCE_BYTES = 16
IDENTITY_BYTES = 16
HELLO = struct.Struct(f">8sI{IDENTITY_BYTES}s{NONCE_BYTES}s")
SIGN = b"."
BUFFER_BYTES = 4096


class Refused(Exception):
    """What is at the other end is not what was looked for."""


@dataclass(frozen=True)
class Party:
    """Who stands at one end."""

    rank: int
    identity: str
    """Of its process, 16 ASCII characters: another one has another."""

    def to_bytes(self) -> bytes:
        return struct.pack(">I", self.rank) + self.identity.encode()


@dataclass(frozen=True)
class Heard:
    at: float | None
    """When an answer last came, as far as anybody has looked, time.monotonic(); None: never."""
    late_s: float
    """An answer that takes longer than this takes long, as this connection goes; 0: not known."""


class LivenessConnection:
    """One end of one connection. Never blocks; used by one thread, whose selector watches `connection`."""

    def __init__(self, connection: socket.socket, own: Party, peer: Party | None, seal: Seal | None) -> None:
        """`peer`: who must be there, for the end that connects; None for the one that listens, which is told."""
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            put_first(connection)
        self.connection, self._own, self.peer, self._seal = connection, own, peer, seal
        self.connects = peer is not None
        self.began = time.monotonic()
        self.established = False
        """Whether both ends have proved who they are."""
        self.last_sign: float | None = None
        """When the process at the other end last wrote, time.monotonic()."""
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._both: bytes | None = None
        """Both nonces, the connector's first, once they are known."""
        self._greeted = False
        self._acked_bytes = 0
        self._answered: float | None = None
        self._received = b""

    def heard(self) -> Heard:
        """Of the other end's machine: its kernel acknowledges whatever the process does.

        What merely comes is not an answer: where only the way there is cut, the other end sends again and again.
        """
        kernel = kernel_of(self.connection) if self._greeted or not self.connects else None
        if kernel is None:
            return Heard(self.last_sign, 0.0)
        if kernel.acked_bytes > self._acked_bytes:
            self._acked_bytes, self._answered = kernel.acked_bytes, time.monotonic()
        return Heard(self._answered, kernel.late_s)

    def greet(self) -> None:
        """The connector's first words, once the connection is there. Raises OSError where it did not come about."""
        code = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "no connection")
        if not self._greeted:
            self._greeted = True
            self._send(HELLO.pack(MAGIC, self._own.rank, self._own.identity.encode(), self._nonce))

    def sign(self) -> None:
        """Raises OSError where the connection has ended."""
        if self.established:
            self._send(SIGN)

    def read(self) -> None:
        """Raises OSError where the connection has ended, Refused where its other end is not the expected process."""
        with contextlib.suppress(BlockingIOError):
            data = self.connection.recv(BUFFER_BYTES)
            if not data:
                raise ConnectionResetError("closed by the other end")
            if self.established:
                self.last_sign = time.monotonic()
                return
            self._received += data
            if self.connects:
                self._take_answer()
            elif self._both is None:
                self._take_hello()
            else:
                self._take_proof()

    def close(self) -> None:
        self.connection.close()

    # --- the handshake -----------------------------------------------------------------------------------------------

    def _take_hello(self) -> None:
        words = self._words(HELLO.size)
        if words is None:
            return
        magic, rank, identity, nonce = HELLO.unpack(words)
        if magic != MAGIC or not identity.isalnum():
            raise Refused
        self.peer = Party(rank, identity.decode("ascii"))
        self._both = nonce + self._nonce
        self._send(self._nonce + self._proof(b"listener"))

    def _take_answer(self) -> None:
        words = self._words(NONCE_BYTES + MAC_BYTES)
        if words is None:
            return
        self._both = self._nonce + words[:NONCE_BYTES]
        self._check(words[NONCE_BYTES:], b"listener")
        self._send(self._proof(b"connector"))

    def _take_proof(self) -> None:
        words = self._words(MAC_BYTES)
        if words is not None:
            self._check(words, b"connector")
            self.sign()

    def _words(self, size: int) -> bytes | None:
        if len(self._received) < size:
            return None
        words, self._received = self._received[:size], self._received[size:]
        return words

    def _check(self, proof: bytes, role: bytes) -> None:
        if not hmac.compare_digest(proof, self._proof(role)):
            raise Refused
        self.established = True
        self.last_sign = time.monotonic()

    def _proof(self, role: bytes) -> bytes:
        assert self.peer is not None
        assert self._both is not None
        ends = sorted((self._own, self.peer), key=lambda party: party.rank)
        text = role + b"".join(party.to_bytes() for party in ends) + self._both
        if self._seal is None:  # all ranks are on this machine, and have no secret
            return hashlib.sha256(text).digest()
        return self._seal.seal("link", text)[:MAC_BYTES]

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # full: the other end has not answered for long
            self.connection.send(data)
