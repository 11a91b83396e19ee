"""Doctor checks: can this rank reach and join rank 0, within its limits."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from edgecompile.contract.errors import UserError
from edgelaunch.common.failures import PeerLostError, rank_name
from edgelaunch.common.identity import Endpoint, loopback_trap
from edgelaunch.common.software import PROTOCOL, Software, mismatch
from edgelaunch.doctor.findings import FAILS, NOTE, CheckContext, Finding, has_torch
from edgelaunch.process.limits import check_limits, files_needed

__all__ = ["check_limits_here", "check_reach", "check_versions"]

REACH_S = 3.0


def check_versions(context: CheckContext) -> Iterator[Finding]:
    """This rank's, and rank 0's where it listens already."""
    from edgelaunch import __version__

    yield Finding(check="edgecompile", found=f"{__version__}, protocol {PROTOCOL}")
    if context.endpoint is None or 0 in context.ranks or not has_torch():
        return
    try:
        theirs = _of_rank_0(context.endpoint)
    except UserError as error:
        yield Finding.of_error("versions", error)
        return
    if theirs is None:
        return
    own, name = Software.own(), rank_name(context.plan, 0)
    wrong = mismatch(rank_name(context.plan, context.ranks[0]), own, name, theirs)
    if wrong is not None:
        yield Finding.of_error("versions", wrong)
    elif unlike := theirs.unlike(own):
        fix = "nothing if it works: only equal versions are tested together"
        yield Finding(check="versions", found=f"{name} has {unlike}, this rank {own.unlike(theirs)}", verdict=NOTE,
                      fix=fix)  # fmt: skip
    else:
        yield Finding(check="versions", found=f"{name} has {theirs.describe()}")


def _of_rank_0(endpoint: Endpoint) -> Software | None:
    """None where it is not there yet, or says nothing. Raises UserError where another program listens there."""
    from edgelaunch.store.joining import greeting
    from edgelaunch.store.meeting import Board

    try:
        socket.create_connection((endpoint.address, endpoint.port), timeout=REACH_S).close()
        return greeting(Board(endpoint, serve=False, timeout_s=REACH_S))
    except (OSError, PeerLostError):  # the check of the way to rank 0 says what is wrong
        return None


def check_reach(context: CheckContext) -> Iterator[Finding]:
    """Whether the others can reach rank 0 at its address; where they can, nothing is said."""
    if context.endpoint is None:
        return
    trap = loopback_trap(context.plan, context.ranks[0], context.endpoint)
    if trap is not None:
        found, fix = trap
        yield Finding(check="loopback", found=found, verdict=FAILS, fix=fix)


def check_limits_here(context: CheckContext) -> Iterator[Finding]:
    try:
        check_limits(context.plan, context.ranks)
    except UserError as error:
        yield Finding.of_error("limits", error)
        return
    needed = files_needed(context.plan)
    yield Finding(check="limits", found=f"allow the {needed} files and sockets that a rank may need, and its memory")
