"""Who may join: what is read from the store counts only if a process that knows the shared secret wrote it.

A TCPStore asks nobody who they are: whoever reaches its port reads and writes every key. So each value carries an
HMAC-SHA256 (RFC 2104) over its key and itself, with a key derived from the secret and from a nonce that rank 0 draws
for each run, so that what was recorded of an earlier run is worth nothing. What does not bear it counts as not there.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import Store

from edgecompile.plan import UserError
from edgelaunch.secret import HOW, VARIABLE

__all__ = ["CHARTER", "REFUSED", "Seal", "SealedStore", "agree"]

MAC_BYTES = 32
NONCE_BYTES = 16
CHARTER = "charter"
"""The key under which rank 0 says whether a secret is asked for: `open`, or the nonce with its seal."""
OPEN = b"open"
REFUSED = "refused"
"""The list of ranks that came with another secret; not sealed, so that it proves nothing."""
POLL_S = 0.02


class Seal:
    """Seals and opens values of one run."""

    def __init__(self, secret: bytes, nonce: bytes) -> None:
        self._nonce = nonce
        self._key = hmac.digest(secret, b"edgelaunch\0" + nonce, "sha256")

    def seal(self, key: str, value: bytes) -> bytes:
        return self._mac(key, value) + value

    def open(self, key: str, sealed: bytes) -> bytes | None:
        """The value; None where nobody who knows the secret wrote it under this key."""
        mac, value = sealed[:MAC_BYTES], sealed[MAC_BYTES:]
        return value if hmac.compare_digest(mac, self._mac(key, value)) else None

    def charter(self) -> bytes:
        return self._nonce + self.seal(CHARTER, b"")

    @staticmethod
    def of_charter(secret: bytes, charter: bytes) -> Seal | None:
        """None where rank 0 has another secret."""
        seal = Seal(secret, charter[:NONCE_BYTES])
        return seal if seal.open(CHARTER, charter[NONCE_BYTES:]) == b"" else None

    def _mac(self, key: str, value: bytes) -> bytes:
        name = key.encode()
        return hmac.digest(self._key, len(name).to_bytes(4, "big") + name + value, hashlib.sha256)


class SealedStore(Store):
    """What gloo meets through: the same store, with every value sealed. A forged one ends the meeting."""

    def __init__(self, store: Store, seal: Seal, prefix: str) -> None:
        """`prefix`: of this meeting alone; it is part of what is sealed."""
        super().__init__()
        self._store, self._seal, self._prefix = store, seal, prefix

    def set(self, key: str, value: Any) -> None:
        plain = value.encode() if isinstance(value, str) else bytes(value)
        name = self._name(key)
        self._store.set(name, self._seal.seal(name, plain))  # type: ignore[arg-type]

    def get(self, key: str) -> bytes:
        name = self._name(key)
        value = self._seal.open(name, bytes(self._store.get(name)))
        if value is None:
            raise RuntimeError(f"{key} in the store was written by somebody who does not know the secret")
        return value

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def has_extended_api(self) -> bool:
        return False

    def check(self, keys: Sequence[str]) -> bool:
        return bool(self._store.check([self._name(key) for key in keys]))

    def add(self, key: str, amount: int) -> int:
        return int(self._store.add(self._name(key), amount))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        names = [self._name(key) for key in keys]
        if timeout is None:
            self._store.wait(names)
        else:
            self._store.wait(names, timeout)

    def delete_key(self, key: str) -> bool:
        return bool(self._store.delete_key(self._name(key)))

    def set_timeout(self, timeout: timedelta) -> None:
        self._store.set_timeout(timeout)

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{key}"


def agree(store: Store, secret: bytes | None, rank: int, timeout_s: float) -> Seal | None:
    """Rank 0 says whether a secret is asked for; the others prove to themselves that it is theirs.

    Returns:
        What seals this run's values; None where all ranks are on one machine and have no secret.

    Raises:
        UserError: rank 0 has another secret, or one of both has none; or rank 0 says nothing within `timeout_s`.
        RuntimeError: the store does not answer.
    """
    if rank == 0:
        seal = Seal(secret, secrets.token_bytes(NONCE_BYTES)) if secret is not None else None
        store.set(CHARTER, seal.charter() if seal is not None else OPEN)  # type: ignore[arg-type]
        return seal
    deadline = time.monotonic() + timeout_s
    while not store.check([CHARTER]):
        if time.monotonic() > deadline:
            raise UserError(f"rank 0 did not come within {timeout_s:g} s: start edgelaunch with the same plan there")
        time.sleep(POLL_S)
    charter = bytes(store.get(CHARTER))
    if charter == OPEN:
        if secret is None:
            return None
        raise UserError(f"rank 0 was started without the secret that this rank has: set {VARIABLE} there too")
    if secret is None:
        raise UserError(f"rank 0 asks for a shared secret, and this rank has none: {HOW}")
    seal = Seal.of_charter(secret, charter)
    if seal is None:
        store.set(f"{REFUSED}/{store.add(REFUSED, 1)}", str(rank))
        raise UserError(
            f"the secret of this rank is not rank 0's: give every rank the same ({VARIABLE} or --secret-file)"
        )
    return seal
