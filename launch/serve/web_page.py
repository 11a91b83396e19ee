"""The live page of a run that is not a service (`edgelaunch PLAN --web`): in a thread of rank 0's process."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from starlette.routing import Route

from edgecompile.contract.plan import Plan
from edgelaunch.serve.http.assembly import assemble
from edgelaunch.serve.http_server import HttpServer
from edgelaunch.serve.live.live_routes import live_routes
from edgelaunch.serve.live.live_state import LiveSource
from edgelaunch.serve.routes.health_route import health

if TYPE_CHECKING:
    from edgelaunch.control.supervisor import Supervisor

__all__ = ["show_page"]

GRACE_S = 1.0
MOST_CONNECTIONS = 64
"""A page has one or two."""


def show_page(listener: socket.socket, runner: Supervisor, plan: Plan, key: bytes | None) -> None:
    """Until the process ends."""
    source = LiveSource.of_run(runner, plan, keyed=key is not None)
    routes = [*live_routes(source), Route("/healthz", health)]
    app = assemble(routes, key, "/", lambda route, status, seconds: None)
    HttpServer(app, listener, GRACE_S, MOST_CONNECTIONS).start()
