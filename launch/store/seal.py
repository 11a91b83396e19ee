"""Authenticates values in the store with the shared secret; values from other writers are ignored.

A TCPStore does not authenticate its clients: whoever reaches its port reads and writes every key. So each value carries
an HMAC-SHA256 (RFC 2104) over its key and itself, with a key derived from the secret and from a nonce that rank 0 draws
for each run. A rank takes that nonce only from a rank 0 that answers it at this moment (`joining`), so that recordings
of an earlier run are worthless. A value without a valid HMAC counts as missing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import Store

__all__ = ["Seal", "SealedStore"]

MAC_BYTES = 32


class Seal:
    """Seals and opens values of one run."""

    def __init__(self, secret: bytes, nonce: bytes) -> None:
        """`nonce`: rank 0's, of this run."""
        self._key = hmac.digest(secret, b"edgelaunch\0" + nonce, "sha256")

    def seal(self, key: str, value: bytes) -> bytes:
        return self._mac(key, value) + value

    def open(self, key: str, sealed: bytes) -> bytes | None:
        """The value; None where it was not written under this key by a process that knows the secret."""
        mac, value = sealed[:MAC_BYTES], sealed[MAC_BYTES:]
        return value if hmac.compare_digest(mac, self._mac(key, value)) else None

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
            raise RuntimeError(f"{key} in the store was written by a process without the secret")
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
