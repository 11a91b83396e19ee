"""Errors of HTTP requests, in the shape in which the OpenAI API has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

__all__ = ["ApiError", "ClientGone", "ending", "error_answer", "json_answer"]

MOST_CHARACTERS = 600
TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that gets no result: a status of 4xx or 5xx and one line."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """`param`: which parameter is wrong; `code`: for programs."""
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def content(self) -> dict[str, Any]:
        line = " ".join(self.message.split())
        line = line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 3]}..."
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": line, "type": kind, "param": self.param, "code": self.code}}


class ClientGone(Exception):
    """Whoever asked has closed the connection."""


def ending() -> ApiError:
    """Of what is still under way when the service ends."""
    return ApiError(503, "the service ends, and this had no result in time (--grace)", code="stopping",
                    headers={"Connection": "close"})  # fmt: skip


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """In ASCII, so that half a character in a message is none in the answer."""
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(body, status, headers, "application/json")


def error_answer(error: ApiError) -> Response:
    return json_answer(error.content(), error.status, error.headers)
