"""The service's app: its routes, its errors, its gate. Others add routes, such as a page at /."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

from edgelaunch.serve.http.assembly import assemble
from edgelaunch.serve.http.service import Service
from edgelaunch.serve.routes import state_routes as state
from edgelaunch.serve.routes.embeddings_route import embeddings
from edgelaunch.serve.routes.health_route import health
from edgelaunch.serve.routes.predict_route import predict
from edgelaunch.serve.routes.text_routes import chat_completions, completions

__all__ = ["make_app"]


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
        Route("/healthz", health),
        Route("/readyz", state.ready),
        Route("/metrics", state.metrics),
        Route("/openapi.json", state.openapi),
        Route("/docs", state.docs),
    ]
    app = assemble(routes, service.settings.key, "/docs", service.counts.add)
    app.state.service = service
    return app
