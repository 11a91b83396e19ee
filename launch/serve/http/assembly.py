"""Puts routes, errors and the gate together as an app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edgelaunch.serve.http.api_error import ApiError, ClientGone, error_answer
from edgelaunch.serve.http.gate import Gate

__all__ = ["assemble"]

GONE = 499
"""The status of a request whose client left, for the counters: nobody is told it."""


def assemble(
    routes: Sequence[BaseRoute], key: bytes | None, hint: str, count: Callable[[str, int, float], None]
) -> Starlette:
    """`hint`: where to look for what there is; `count`: as of Gate."""
    known = frozenset(route.path for route in routes if isinstance(route, Route))
    handlers: dict[Any, Any] = {
        ApiError: _api_error, ClientGone: _gone, HTTPException: _http_error(hint), Exception: _bug,
    }  # fmt: skip
    gate = Middleware(Gate, key=key, count=count, known=known)
    app = Starlette(routes=routes, exception_handlers=handlers, middleware=[gate])
    app.router.redirect_slashes = False
    return app


async def _api_error(request: Request, error: ApiError) -> Response:
    return error_answer(error)


def _http_error(hint: str) -> Callable[[Request, HTTPException], Awaitable[Response]]:
    async def answer(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:100]
        words = {404: f"nothing is at {path}: see {hint}", 405: f"{request.method[:20]} is not for {path}: see {hint}"}
        message = words.get(error.status_code, str(error.detail))
        return error_answer(ApiError(error.status_code, message, headers=error.headers))

    return answer


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _bug(request: Request, error: Exception) -> Response:
    """Its traceback goes into the service's log, and not to the client."""
    return error_answer(ApiError(500, "the service failed on this request: its log says why", code="internal_error"))
