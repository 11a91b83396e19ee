"""`--web`: a live page of a run, on rank 0. Imports no torch."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING

from edgecompile.contract.errors import UserError
from edgelaunch.common.identity import is_loopback
from edgelaunch.process.listener import listen_at, url_of
from edgelaunch.request.run_request import RunRequest

if TYPE_CHECKING:
    from edgelaunch.composition import RankStart
    from edgelaunch.control.supervisor import Supervisor

__all__ = ["open_page", "serve_page"]

PACKAGES = ("starlette", "uvicorn", "httptools")


def open_page(request: RunRequest) -> socket.socket | None:
    """What the page will be served at, before anything starts; None where none is asked for.

    Raises:
        UserError: the extra is not installed, the key cannot be used, or nothing can listen there.
    """
    if request.web_fd is not None:
        return socket.socket(fileno=request.web_fd)
    if request.web is None:
        return None
    for package in PACKAGES:
        if find_spec(package) is None:
            raise UserError(f"--web needs {package}: pip install 'edgecompile[serve]'")
    _key(request)
    return listen_at(request.web.host, request.web.port, "choose another --web [ADDRESS:]PORT")


def serve_page(listener: socket.socket, start: RankStart[RunRequest], runner: Supervisor) -> None:
    """Says where, unless the run is quiet."""
    from edgelaunch.serve.web_page import show_page

    key = _key(start.request)
    host, port = listener.getsockname()[:2]
    show_page(listener, runner, start.plan, key)
    everywhere = host in ("0.0.0.0", "::")  # noqa: S104 - it is only compared
    start.log(f"a live page of this run is at {url_of(start.endpoint.address if everywhere else host, port)}")
    if key is None and not is_loopback(host):
        start.log("the page has no API key: whoever reaches this address may see it (--api-key-file FILE)")


def _key(request: RunRequest) -> bytes | None:
    from edgelaunch.serve.http.access_key import find_key

    return find_key(request.api_key_file, os.environ)
