"""The socket that HTTP requests come to. Imports no server: a parent may make it for the process that serves."""

from __future__ import annotations

import socket

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address

__all__ = ["listen_at", "url_of"]

BACKLOG = 1024


def listen_at(address: Address) -> socket.socket:
    """Port 0: any that is free. Raises UserError where nothing can listen there."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
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
        raise UserError(f"nothing can listen at {address}: {error.strerror}: choose another --port or --bind") from None
    return listener


def url_of(bind: str, port: int) -> str:
    host = f"[{bind}]" if ":" in bind else bind
    return f"http://{host}:{port}"
