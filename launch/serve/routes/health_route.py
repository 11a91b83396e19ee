"""The route that says whether the process lives."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from edgelaunch.serve.http.api_error import json_answer

__all__ = ["health"]


async def health(request: Request) -> Response:
    return json_answer({"status": "ok"})
