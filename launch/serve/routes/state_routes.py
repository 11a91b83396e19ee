"""Routes that tell what the service is and how it does: models, health, metrics, documents."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from edgelaunch.serve.http.api_error import json_answer
from edgelaunch.serve.http.service import Service
from edgelaunch.serve.routes.docs_page import docs_html
from edgelaunch.serve.routes.openapi import openapi_document

__all__ = ["docs", "metrics", "model", "models", "openapi", "ready"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NOTHING_ELSE = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""A page loads nothing from elsewhere, nor runs anything."""


async def models(request: Request) -> Response:
    return json_answer({"object": "list", "data": [_model(Service.of(request))]})


async def model(request: Request) -> Response:
    service = Service.of(request)
    service.check_model(request.path_params["name"])
    return json_answer(_model(service))


def _model(service: Service) -> dict[str, object]:
    return {"id": service.name, "object": "model", "created": service.begun, "owned_by": "edgecompile"}


async def ready(request: Request) -> Response:
    """Whether items flow: 503 while the ranks connect."""
    is_ready = Service.of(request).running.ready
    return json_answer({"ready": is_ready}, 200 if is_ready else 503, {} if is_ready else {"Retry-After": "1"})


async def metrics(request: Request) -> Response:
    return Response(Service.of(request).metrics(), headers={"content-type": METRICS_TYPE})


async def openapi(request: Request) -> Response:
    service = Service.of(request)
    return json_answer(openapi_document(service.running.plan, keyed=service.settings.key is not None))


async def docs(request: Request) -> Response:
    service = Service.of(request)
    document = openapi_document(service.running.plan, keyed=service.settings.key is not None)
    return HTMLResponse(docs_html(document), headers={"content-security-policy": NOTHING_ELSE})
