"""A request counts once, at one agent, and only as it was signed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgelaunch.boards import signed_requests
from edgelaunch.boards.signed_requests import Proof, Session, make_proof, sha256_of

SECRET = b"sixteen bytes or more"
BODY = sha256_of(b"body")


def proof_for(session: Session, secret: bytes = SECRET, target: str = "/jobs", ahead_ms: int = 0) -> Proof:
    return make_proof(secret, session.name, "POST", target, BODY, session.time_ms() + ahead_ms)


def test_a_request_counts_once() -> None:
    session = Session(SECRET)
    proof = proof_for(session)
    assert session.refusal("POST", "/jobs", proof) is None
    assert session.refusal("POST", "/jobs", proof) == "the request was made before"
    assert session.refusal("POST", "/jobs", proof_for(session)) is None


def test_nothing_of_it_may_be_changed() -> None:
    session = Session(SECRET)
    proof = proof_for(session)
    changed = [
        replace(proof, time_ms=proof.time_ms + 1),
        replace(proof, nonce="0" * 32),
        replace(proof, body_sha256=sha256_of(b"")),
        replace(proof, signature="0" * 64),
    ]
    for other in changed:
        assert session.refusal("POST", "/jobs", other) is not None
    assert session.refusal("PUT", "/jobs", proof) is not None
    assert session.refusal("POST", "/jobs/", proof) is not None
    assert session.refusal("POST", "/jobs", proof) is None, "what was refused is not used up"


def test_neither_another_secret_nor_another_agent_takes_it() -> None:
    session, other = Session(SECRET), Session(SECRET)
    assert session.refusal("POST", "/jobs", proof_for(session, b"another secret of them")) is not None
    assert session.refusal("POST", "/jobs", proof_for(other)) is not None
    assert session.refusal("POST", "/jobs", None) == "the request is not signed"


def test_it_grows_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(SECRET)
    late = signed_requests.WINDOW_MS + 1000
    assert session.refusal("POST", "/jobs", proof_for(session, ahead_ms=late)) == "the request is too old"
    kept = proof_for(session)
    assert session.refusal("POST", "/jobs", kept) is None
    begun = session.time_ms()
    monkeypatch.setattr(session, "time_ms", lambda: begun + late)
    assert session.refusal("POST", "/jobs", kept) == "the request is too old"
    for _ in range(3):
        assert session.refusal("POST", "/jobs", proof_for(session)) is None
    assert kept.nonce not in session._nonces


def test_nonces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_requests, "MOST_NONCES", 3)
    session = Session(SECRET)
    refusals = [session.refusal("POST", "/jobs", proof_for(session)) for _ in range(4)]
    assert refusals[:3] == [None] * 3
    assert "too many requests" in str(refusals[3])


def test_headers_are_read_back_and_nothing_else() -> None:
    proof = proof_for(Session(SECRET))
    headers = proof.headers()
    assert Proof.read(headers) == proof
    for name, value in headers.items():
        for bad in ("", value + "\n", value.upper() + "g", "-1"):
            assert Proof.read({**headers, name: bad}) is None, (name, bad)
