"""Routes of the live page: the page itself, its picture of the cluster, and its figures."""

from __future__ import annotations

import base64
import hashlib

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from edgelaunch.serve.http.api_error import json_answer
from edgelaunch.serve.live.live_page import SCRIPT, draw_live, live_html
from edgelaunch.serve.live.live_state import LiveSource, LiveState

__all__ = ["live_routes"]

HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{HASH}'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but this page's own script runs, and it asks this service alone."""


def live_routes(source: LiveSource) -> list[Route]:
    state = LiveState(source)

    async def page(request: Request) -> Response:
        return HTMLResponse(live_html(source.plan, keyed=source.keyed, serves=source.serves),
                            headers={"content-security-policy": POLICY})  # fmt: skip

    async def cluster(request: Request) -> Response:
        return HTMLResponse(draw_live(source.running_plan()))

    async def figures(request: Request) -> Response:
        return json_answer(state.values())

    return [Route("/", page), Route("/live/cluster", cluster), Route("/live/figures", figures)]
