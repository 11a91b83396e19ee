"""A socket that listens where a user said. Imports no torch."""

from __future__ import annotations

import socket

from edgecompile.contract.errors import UserError

__all__ = ["OTHER_PLACE", "listen_at", "url_of"]

BACKLOG = 1024
OTHER_PLACE = "choose another --port or --bind"
"""Of a service."""


def listen_at(host: str, port: int, fix: str) -> socket.socket:
    """Port 0: any that is free. Raises UserError where nothing can listen there; `fix`: what to do then."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UserError(f"nothing can listen at {_at(host, port)}: {error.strerror}: {fix}") from None
    return listener


def url_of(host: str, port: int) -> str:
    return f"http://{_at(host, port)}"


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
