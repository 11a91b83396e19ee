"""Asks an agent: each request proves that we know the secret, each answer that the agent does. Imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256, replacing
from edgelaunch.boards.job_orders import JobNews, JobOrder, read_object
from edgelaunch.boards.signed_requests import (
    BODY,
    CHALLENGE,
    SIGNATURE,
    answer_signature,
    hello_signature,
    is_equal,
    make_proof,
    sha256_of,
)
from edgelaunch.common.addresses import Address

__all__ = ["BoardClient", "NoAgentError", "OtherSecretError"]

CONNECT_S = 5.0
ANSWER_S = 90.0
MOST_ANSWER_BYTES = 16 << 20
PIECE_BYTES = 1 << 20


class NoAgentError(UserError):
    """Nothing answers there, or not as an agent does."""


class OtherSecretError(UserError):
    """An agent with another secret."""


@dataclass(frozen=True, kw_only=True)
class _Session:
    name: str
    ahead_ms: int
    """Its clock, less ours."""


class BoardClient:
    """One agent. Raises UserError, or one of those above, where it cannot or will not answer."""

    def __init__(self, address: Address, secret: bytes) -> None:
        self.address, self._secret = address, secret
        self._session: _Session | None = None

    # --- what can be asked -------------------------------------------------------------------------------------------

    def board(self) -> dict[str, Any]:
        """Its facts, and the boards that joined it, as it tells them."""
        return read_object(self._call("GET", "/board"))

    def join(self, port: int) -> None:
        """As an agent that listens at this port."""
        self._call("POST", "/peers", json.dumps({"port": port}).encode())

    def send_plan(self, path: Path) -> str:
        """Returns its sha256."""
        sha256 = file_sha256(path)
        self._send_file("PUT", f"/plans/{sha256}", path, sha256)
        return sha256

    def lacking(self, plan_sha256: str) -> set[str]:
        """The sha256 of files of a plan that the agent lacks."""
        return {str(item) for item in read_object(self._call("GET", f"/plans/{plan_sha256}/lacking"))["lacking"]}

    def send_file(self, plan_sha256: str, path: Path, sha256: str) -> None:
        self._send_file("PUT", f"/plans/{plan_sha256}/files/{sha256}", path, sha256)

    def send_input(self, path: Path, name: str) -> str:
        """Returns its sha256."""
        sha256 = file_sha256(path)
        self._send_file("PUT", f"/inputs/{sha256}/{name}", path, sha256)
        return sha256

    def start(self, order: JobOrder) -> None:
        self._call("POST", "/jobs", order.to_json())

    def news(self, job: str, since: int) -> JobNews:
        """Waits a moment for some."""
        return JobNews.read(self._call("GET", f"/jobs/{job}/log/{since}"))

    def end(self, job: str) -> None:
        self._call("POST", f"/jobs/{job}/end")

    def fetch(self, job: str, name: str, path: Path) -> None:
        """A file that the job left, to `path`, whole or not at all."""
        with self._asked("GET", f"/jobs/{job}/files/{name}", sha256_of(b""), None) as answer:
            digest = hashlib.sha256()
            with _written(path), replacing(path) as temporary:
                with open(temporary, "wb") as file:
                    while piece := answer.body.read(PIECE_BYTES):
                        digest.update(piece)
                        file.write(piece)
                if digest.hexdigest() != answer.sha256:
                    raise NoAgentError(f"{name} did not come whole: try again", key=str(self.address))

    # --- one request -------------------------------------------------------------------------------------------------

    def _call(self, method: str, target: str, body: bytes = b"") -> bytes:
        with self._asked(method, target, sha256_of(body), body) as answer:
            return _whole(answer, self.address)

    def _send_file(self, method: str, target: str, path: Path, sha256: str) -> None:
        with self._asked(method, target, sha256, path) as answer:
            _whole(answer, self.address)

    @contextlib.contextmanager
    def _asked(self, method: str, target: str, sha256: str, body: bytes | Path | None) -> Iterator[_Answer]:
        """Once more where the agent was started again since it was last asked."""
        fresh = self._session is None
        with contextlib.ExitStack() as stack:
            answer = stack.enter_context(self._request(method, target, sha256, body))
            if answer.status == 401 and not fresh:
                stack.close()
                self._session = None
                answer = stack.enter_context(self._request(method, target, sha256, body))
            if answer.status != 200:
                error = str(read_object(_whole(answer, self.address)).get("error", ""))
                known = 401 if not answer.is_proved else answer.status
                raise (OtherSecretError if known == 401 else UserError)(error, key=str(self.address))
            if not answer.is_proved:
                raise OtherSecretError("its answer is not of who knows the secret", key=str(self.address))
            yield answer

    @contextlib.contextmanager
    def _request(self, method: str, target: str, sha256: str, body: bytes | Path | None) -> Iterator[_Answer]:
        session = self._session = self._session or self._hello()
        time_ms = max(0, _now_ms() + session.ahead_ms)
        proof = make_proof(self._secret, session.name, method, target, sha256, time_ms)
        with self._connected() as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before it was whole: it says why
                if isinstance(body, Path):
                    with open(body, "rb") as file:
                        headers = proof.headers() | {"Content-Length": str(body.stat().st_size)}
                        connection.request(method, target, file, headers)
                else:
                    connection.request(method, target, body or None, proof.headers())
            response = connection.getresponse()
            said, signature = (response.headers.get(name) or "" for name in (BODY, SIGNATURE))
            expected = answer_signature(self._secret, proof.signature, response.status, said)
            yield _Answer(status=response.status, sha256=said, is_proved=is_equal(expected, signature), body=response)

    def _hello(self) -> _Session:
        challenge = secrets.token_hex(16)
        with self._connected() as connection:
            begun_ms = _now_ms()
            connection.request("GET", "/hello", headers={CHALLENGE: challenge})
            response = connection.getresponse()
            body = response.read(MOST_ANSWER_BYTES)
            middle_ms = (begun_ms + _now_ms()) // 2
            signature = response.headers.get(SIGNATURE) or ""
        if response.status != 200 or not signature:
            raise NoAgentError("what answers there is no agent of edgelaunch", key=str(self.address))
        if not is_equal(hello_signature(self._secret, challenge, body), signature):
            raise OtherSecretError("the agent there has another secret", key=str(self.address),
                                   fix="give both the same, in EDGELAUNCH_SECRET or with --secret-file")  # fmt: skip
        told = read_object(body)
        session, time_ms = told.get("session"), told.get("time_ms")
        if not isinstance(session, str) or not isinstance(time_ms, int):
            raise NoAgentError(
                "the agent there is of another version: install the same edgecompile", key=str(self.address)
            )
        return _Session(name=session, ahead_ms=time_ms - middle_ms)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=CONNECT_S)
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER_S)
            yield connection
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoAgentError(f"no agent answers there ({reason})", key=str(self.address),
                               fix="start edgelaunch agent on that board") from None  # fmt: skip
        finally:
            connection.close()


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Names a file of ours that cannot be written: it is not the agent's fault."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True, kw_only=True)
class _Answer:
    status: int
    sha256: str
    is_proved: bool
    body: http.client.HTTPResponse


def _whole(answer: _Answer, address: Address) -> bytes:
    data = answer.body.read(MOST_ANSWER_BYTES)
    if sha256_of(data) != answer.sha256:
        raise NoAgentError("what answers there is no agent of edgelaunch", key=str(address))
    return data


def _now_ms() -> int:
    return int(time.monotonic() * 1000)
