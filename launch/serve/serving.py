"""Serves a plan: the pipeline in this process, the HTTP server beside it, until a signal or a failure ends both."""

from __future__ import annotations

import gc
import json
import logging
import socket
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.terminal.process import end_at_next_signal
from edgelaunch.application.running import Running
from edgelaunch.common.identity import is_loopback
from edgelaunch.process.listener import OTHER_PLACE, listen_at, url_of
from edgelaunch.process.stderr import say
from edgelaunch.request.serve_request import ServeRequest
from edgelaunch.serve.http.access_key import find_key
from edgelaunch.serve.http.service import Service, Settings
from edgelaunch.serve.http_app import make_app
from edgelaunch.serve.http_server import HttpServer
from edgelaunch.serve.live.live_routes import live_routes
from edgelaunch.serve.live.live_state import LiveSource

__all__ = ["serve"]

LOOK_S = 0.1
RECORD = "run.json"


def serve(request: ServeRequest, key_file: Path | None, environ: dict[str, str], prepare: Callable[[], None]) -> None:
    """Until SIGTERM or Ctrl-C, which end it well. `prepare`: before the pipeline starts, while health is answered.

    Raises:
        UserError: nothing can listen there, or the plan or a file is invalid.
        RankFailedError: a rank failed; every request has been answered.
    """
    settings = Settings(
        max_queue=request.max_queue, max_body=request.max_body, request_timeout_s=request.request_timeout,
        key=find_key(key_file, environ),
    )  # fmt: skip
    restarts = request.most_restarts
    running = Running(request.run_request(), local=request.local, restarts=restarts, own_process=True)
    began = datetime.now(timezone.utc).isoformat(timespec="seconds")
    listener = (
        listen_at(request.bind, request.port, OTHER_PLACE) if request.http_fd is None
        else socket.socket(fileno=request.http_fd)
    )  # fmt: skip
    service = Service(running, settings)
    app = make_app(service, live_routes(LiveSource.of_service(service)))
    server = HttpServer(app, listener, request.grace, request.max_connections)
    server.start()
    try:
        prepare()
        running.start()
        gc.collect()
        gc.freeze()  # what is there stays: looking through it would keep a request waiting
        _tell(request, service, listener.getsockname()[1])
        while server.alive:
            running.check()
            time.sleep(LOOK_S)
        raise UserError(f"the HTTP server ended: {server.error}")
    except KeyboardInterrupt:
        end_at_next_signal()
        if not request.quiet:
            say(f"stopping; what is under way may take {request.grace:g} s", about="edgelaunch", event="stopping")
        cut_off = server.stop()
        if cut_off:
            say(f"{cut_off:,} requests had no result within {request.grace:g} s (--grace)", level=logging.WARNING,
                about="edgelaunch", event="cut_off", num_requests=cut_off)  # fmt: skip
    finally:
        server.force()
        running.close()
    _keep_record(request, running, began)
    if not request.quiet:
        say(f"answered {service.counts.num_requests:,} requests", about="edgelaunch", event="stopped",
            num_requests=service.counts.num_requests)  # fmt: skip


def _tell(request: ServeRequest, service: Service, port: int) -> None:
    url = url_of(request.bind, port)
    if request.json:
        print(json.dumps({"url": url, "model": service.name}), flush=True)
    if request.quiet:
        return
    say(f"{service.name} at {url}: see {url}/docs", about="edgelaunch", event="serving", url=url)
    if service.settings.key is None and not is_loopback(request.bind):
        say("there is no API key: whoever reaches this address may use it (--api-key-file FILE)", level=logging.WARNING,
            about="edgelaunch", event="no_key")  # fmt: skip


def _keep_record(request: ServeRequest, running: Running, began: str) -> None:
    """As a run leaves it, where there were results."""
    run = running.concluded
    if run is None or not run.collector.num_items:
        return
    from edgelaunch.report.run_file import keep_record, record_of

    path = request.run if request.run is not None else request.plan_path.resolve().parent / RECORD
    text = running.texts.record(run.ranks[0].machine) if running.texts is not None else None
    record = record_of(run.plan, run, file_sha256(request.plan_path), began, text)
    keep_record(record, path, named=request.run is not None)
