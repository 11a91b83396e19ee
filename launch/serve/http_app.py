"""The service's app: its routes, its errors, its gate. Others add routes, such as a page at /."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edgelaunch.serve.http.api_error import ApiError, ClientGone, error_answer
from edgelaunch.serve.http.gate import Gate
from edgelaunch.serve.http.service import Service
from edgelaunch.serve.routes import state_routes as state
from edgelaunch.serve.routes.embeddings_route import embeddings
from edgelaunch.serve.routes.predict_route import predict
from edgelaunch.serve.routes.text_routes import chat_completions, completions

__all__ = ["make_app"]

GONE = 499
"""The status of a request whose client left, for the counters: nobody is told it."""


def make_app(service: Service, more: Sequence[BaseRoute] = ()) -> Starlette:
    """`more`: routes that come before those here."""
    routes = [
        *more,
        Route("/v1/predict", predict, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/models", state.models),
        Route("/v1/models/{name:path}", state.model),
        Route("/healthz", state.health),
        Route("/readyz", state.ready),
        Route("/metrics", state.metrics),
        Route("/openapi.json", state.openapi),
        Route("/docs", state.docs),
    ]
    known = frozenset(route.path for route in routes if isinstance(route, Route))
    handlers: dict[Any, Any] = {
        ApiError: _api_error, ClientGone: _gone, HTTPException: _http_error, Exception: _bug,
    }  # fmt: skip
    gate = Middleware(Gate, key=service.settings.key, count=service.counts.add, known=known)
    app = Starlette(routes=routes, exception_handlers=handlers, middleware=[gate])
    app.router.redirect_slashes = False
    app.state.service = service
    return app


async def _api_error(request: Request, error: ApiError) -> Response:
    return error_answer(error)


async def _http_error(request: Request, error: HTTPException) -> Response:
    path = request.url.path[:100]
    words = {404: f"nothing is at {path}: see /docs", 405: f"{request.method[:20]} is not for {path}: see /docs"}
    message = words.get(error.status_code, str(error.detail))
    return error_answer(ApiError(error.status_code, message, headers=error.headers))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _bug(request: Request, error: Exception) -> Response:
    """Its traceback goes into the service's log, and not to the client."""
    return error_answer(ApiError(500, "the service failed on this request: its log says why", code="internal_error"))
