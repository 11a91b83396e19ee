"""From the request of a command that starts every rank to the request of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from edgelaunch.common.addresses import Address
from edgelaunch.request.links_request import LinksRequest
from edgelaunch.request.option_fields import Reach, options_of
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.serve_request import ServeRequest

__all__ = ["RankSettings", "request_of_rank"]

R = TypeVar("R", bound=RunRequest | LinksRequest | ServeRequest)


@dataclass(frozen=True, kw_only=True)
class RankSettings:
    """What a parent chooses for each rank that it starts."""

    master: Address | None
    """None: as the plan says."""
    threads: int | None
    loopback: bool = True
    """All ranks are on this machine."""
    cores: tuple[int, ...] = ()
    """Of this machine, which the rank is kept to; none: it may use all."""


def request_of_rank(
    request: R, rank: int, settings: RankSettings, *, supervisor_fd: int | None = None, listen_fd: int | None = None,
    web_fd: int | None = None,
) -> R:  # fmt: skip
    """All that the user asked for, but what is the parent's own, or the data host's on another rank."""
    values: dict[str, Any] = {
        item.name: item.default
        for item, known in options_of(type(request))
        if known.reach is Reach.PARENT or (known.reach is Reach.DATA_HOST and rank != 0)
    }
    values |= {"rank": rank, "master": settings.master, "threads": settings.threads, "loopback": settings.loopback,
               "cores": settings.cores, "supervisor_fd": supervisor_fd, "listen_fd": listen_fd}  # fmt: skip
    if web_fd is not None:
        values["web_fd"] = web_fd
    return replace(request, **values)
