"""Serves a plan: the pipeline in this process, the HTTP server beside it, until a signal or a failure ends both."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgelaunch.application.running import Running
from edgelaunch.common.addresses import Address
from edgelaunch.common.identity import is_loopback
from edgelaunch.process.stderr import say
from edgelaunch.request.run_request import DEFAULT_RESTARTS
from edgelaunch.request.serve_request import ServeRequest
from edgelaunch.serve.http.access_key import find_key
from edgelaunch.serve.http.service import Service, Settings
from edgelaunch.serve.http_app import make_app
from edgelaunch.serve.http_server import HttpServer, listen_at
from edgelaunch.serve.live.live_routes import live_routes

__all__ = ["serve"]

LOOK_S = 0.1


def serve(request: ServeRequest, key_file: Path | None, environ: dict[str, str], prepare: Callable[[], None]) -> None:
    """Until SIGTERM or Ctrl-C, which end it well. `prepare`: before the pipeline starts, while health is answered.

    Raises:
        UserError: nothing can listen there, or the plan or a file is invalid.
        RankFailedError: a rank failed; every request has been answered.
        KeyboardInterrupt: a second signal.
    """
    settings = Settings(
        max_queue=request.max_queue, max_body=request.max_body, request_timeout_s=request.request_timeout,
        key=find_key(key_file, environ),
    )  # fmt: skip
    restarts = DEFAULT_RESTARTS if request.restarts is None else request.restarts
    running = Running(request.run_request(), local=request.local, restarts=restarts)
    listener = listen_at(Address(request.bind, request.port))
    service = Service(running, settings)
    server = HttpServer(make_app(service, live_routes(service)), listener, request.grace)
    server.start()
    try:
        prepare()
        running.start()
        _tell(request, service, listener.getsockname()[1])
        while server.alive:
            running.check()
            time.sleep(LOOK_S)
        raise UserError(f"the HTTP server ended: {server.error}")
    except KeyboardInterrupt:
        if not request.quiet:
            say(f"stopping; what is under way may take {request.grace:g} s", about="edgelaunch", event="stopping")
        server.stop()
    finally:
        server.force()
        running.close()
    if not request.quiet:
        say(f"answered {service.counts.num_requests:,} requests", about="edgelaunch", event="stopped",
            num_requests=service.counts.num_requests)  # fmt: skip


def _tell(request: ServeRequest, service: Service, port: int) -> None:
    host = f"[{request.bind}]" if ":" in request.bind else request.bind
    url = f"http://{host}:{port}"
    if request.json:
        print(json.dumps({"url": url, "model": service.name}), flush=True)
    if request.quiet:
        return
    say(f"{service.name} at {url}: see {url}/docs", about="edgelaunch", event="serving", url=url)
    if service.settings.key is None and not is_loopback(request.bind):
        say("there is no API key: whoever reaches this address may use it (--api-key-file FILE)", level=logging.WARNING,
            about="edgelaunch", event="no_key")  # fmt: skip
