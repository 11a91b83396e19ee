"""Opens the TCPStore that rank 0 serves, for a run and for the doctor."""

from __future__ import annotations

from datetime import timedelta

import torch
from torch._C._distributed_c10d import TCPStore

from edgecompile.contract.errors import UserError

__all__ = ["serve_store"]

FIRST_WITH_LIBUV_ON_SOCKETS = "2.8"
"""Before this torch, the default backend of TCPStore refuses a socket that listens already, and logs an error."""


def serve_store(address: str, port: int, descriptor: int, timeout: timedelta) -> TCPStore:
    """Rank 0's end. Clients of either backend meet it.

    Args:
        descriptor: a socket that listens on this address and port; the store owns it from now on.

    Raises:
        UserError: this torch cannot.
    """

    def serve(use_libuv: bool) -> TCPStore:
        return TCPStore(address, port, None, True, timeout, False, False, descriptor, use_libuv)

    backends = (True, False) if torch.__version__ >= FIRST_WITH_LIBUV_ON_SOCKETS else (False,)
    for use_libuv in backends:
        try:
            return serve(use_libuv)
        except RuntimeError as error:  # a torch that was built without libuv
            reason = (str(error).strip().splitlines() or ["?"])[0]
    raise UserError(
        f"torch {torch.__version__} cannot serve the store where the ranks meet ({reason})",
        fix="install another on rank 0's machine, 2.6 or later and built with USE_DISTRIBUTED=1",
    )
