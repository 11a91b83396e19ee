"""Routes of the live page: the page itself, its picture of the cluster, and its figures."""

from __future__ import annotations

import base64
import hashlib

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from edgecompile.drawing.cluster_graph import graph_of_plan
from edgecompile.drawing.graph_svg import draw_graph
from edgelaunch.serve.http.api_error import json_answer
from edgelaunch.serve.http.service import Service
from edgelaunch.serve.live.live_page import SCRIPT, live_html
from edgelaunch.serve.live.live_state import LiveState, running_plan

__all__ = ["live_routes"]

HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{HASH}'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but this page's own script runs, and it asks this service alone."""


def live_routes(service: Service) -> list[Route]:
    state = LiveState(service)

    async def page(request: Request) -> Response:
        plan = service.running.plan
        return HTMLResponse(live_html(plan, keyed=service.settings.key is not None),
                            headers={"content-security-policy": POLICY})  # fmt: skip

    async def cluster(request: Request) -> Response:
        service.check()
        return HTMLResponse(draw_graph(graph_of_plan(running_plan(service))))

    async def figures(request: Request) -> Response:
        return json_answer(state.values())

    return [Route("/", page), Route("/live/cluster", cluster), Route("/live/figures", figures)]
