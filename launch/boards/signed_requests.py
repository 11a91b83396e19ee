"""Proves with the shared secret who asks an agent, and who answers. Imports no torch.

An agent draws a session when it starts, and tells it, sealed, to whoever sends a challenge. A request carries an
HMAC-SHA256 over that session, the method, the target, the hash of its body, the agent's own time and a nonce; an answer
one over the request's and its own status and body. So a recorded request counts neither twice, nor at another agent.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from edgelaunch.common.secret import sign

__all__ = [
    "BODY",
    "CHALLENGE",
    "SHA256",
    "SIGNATURE",
    "TOKEN",
    "Proof",
    "Session",
    "answer_signature",
    "hello_signature",
    "is_equal",
    "make_proof",
    "sha256_of",
]

WINDOW_MS = 60_000
"""How old a request may be, by the agent's clock, which who asks was told."""
MOST_NONCES = 100_000
CHALLENGE, TIME, NONCE, BODY, SIGNATURE = (
    f"Edgelaunch-{name}" for name in ("Challenge", "Time", "Nonce", "Body", "Signature")
)
SHA256 = re.compile(r"[0-9a-f]{64}")
TOKEN = re.compile(r"[0-9a-f]{32}")
NUMBER = re.compile(r"[0-9]{1,15}")


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_equal(first: str, second: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(first.encode(), second.encode())


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a request carries beside what it asks."""

    time_ms: int
    """Since the agent started, as it says itself."""
    nonce: str
    body_sha256: str
    signature: str

    def headers(self) -> dict[str, str]:
        return {TIME: str(self.time_ms), NONCE: self.nonce, BODY: self.body_sha256, SIGNATURE: self.signature}

    @staticmethod
    def read(headers: Mapping[str, str]) -> Proof | None:
        """None where there is none, or it is malformed."""
        texts = [headers.get(name) or "" for name in (TIME, NONCE, BODY, SIGNATURE)]
        patterns = (NUMBER, TOKEN, SHA256, SHA256)
        if not all(pattern.fullmatch(text) for pattern, text in zip(patterns, texts, strict=True)):
            return None
        return Proof(time_ms=int(texts[0]), nonce=texts[1], body_sha256=texts[2], signature=texts[3])


def make_proof(secret: bytes, session: str, method: str, target: str, body_sha256: str, time_ms: int) -> Proof:
    nonce = secrets.token_hex(16)
    signature = _request_signature(secret, session, method, target, body_sha256, time_ms, nonce)
    return Proof(time_ms=time_ms, nonce=nonce, body_sha256=body_sha256, signature=signature)


def hello_signature(secret: bytes, challenge: str, body: bytes) -> str:
    """Of an agent's first answer, to who drew the challenge."""
    return sign(secret, "board hello", challenge.encode(), body).hex()


def answer_signature(secret: bytes, request: str, status: int, body_sha256: str) -> str:
    """`request`: the signature of what is answered."""
    return sign(secret, "board answer", request.encode(), str(status).encode(), body_sha256.encode()).hex()


def _request_signature(
    secret: bytes, session: str, method: str, target: str, body_sha256: str, time_ms: int, nonce: str
) -> str:
    parts = (session, method, target, body_sha256, str(time_ms), nonce)
    return sign(secret, "board request", *(part.encode("utf-8", "surrogateescape") for part in parts)).hex()


class Session:
    """An agent's, from its start to its end: what it accepts, each request once."""

    def __init__(self, secret: bytes) -> None:
        self._secret, self._start = secret, time.monotonic()
        self.name = secrets.token_hex(16)
        self._nonces: dict[str, int] = {}
        self._lock = threading.Lock()

    def time_ms(self) -> int:
        return int((time.monotonic() - self._start) * 1000)

    def refusal(self, method: str, target: str, proof: Proof | None) -> str | None:
        """Why a request is not accepted; None where it is, which it then never is again."""
        if proof is None:
            return "the request is not signed"
        expected = _request_signature(
            self._secret, self.name, method, target, proof.body_sha256, proof.time_ms, proof.nonce
        )
        if not is_equal(expected, proof.signature):
            return "the secret is another one, or the agent was started again"
        now_ms = self.time_ms()
        if abs(now_ms - proof.time_ms) > WINDOW_MS:
            return "the request is too old"
        with self._lock:
            if proof.nonce in self._nonces:
                return "the request was made before"
            self._forget(now_ms)
            if len(self._nonces) >= MOST_NONCES:
                return "there are too many requests: try again in a minute"
            self._nonces[proof.nonce] = proof.time_ms
        return None

    def _forget(self, now_ms: int) -> None:
        """Those that would be too old by now; they are kept in the order in which they came."""
        for nonce, time_ms in list(self._nonces.items())[:2]:
            if now_ms - time_ms > WINDOW_MS:
                del self._nonces[nonce]

    def answer_signature(self, proof: Proof, status: int, body_sha256: str) -> str:
        return answer_signature(self._secret, proof.signature, status, body_sha256)

    def hello_signature(self, challenge: str, body: bytes) -> str:
        return hello_signature(self._secret, challenge, body)
