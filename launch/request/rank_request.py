"""The options that every command on a rank shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from edgelaunch.common.addresses import Address, read_address
from edgelaunch.request.log_options import LogOptions
from edgelaunch.request.option_fields import Reach, option, plan_argument, words_of

__all__ = ["ALL_RANKS", "CHOSEN", "WHICH_RANK", "RankRequest"]

WHICH_RANK = "which rank"
ALL_RANKS = "the parent stands for every rank, and a rank for itself"
CHOSEN = "the parent chooses one for each rank"


@dataclass(frozen=True, kw_only=True)
class RankRequest(LogOptions):
    COMMAND: ClassVar[str] = ""
    """The word between `edgelaunch` and the plan."""

    plan_path: Path = field(metadata=plan_argument("plan.yaml"))
    rank: int | None = field(default=None, metadata=option(
        "--rank", int, why=CHOSEN, group=WHICH_RANK, metavar="N",
        help="else the plan's host that is this machine, or $RANK"))  # fmt: skip
    master: Address | None = field(default=None, metadata=option(
        "--master", partial(read_address, "--master"), why=CHOSEN, group=WHICH_RANK, metavar="ADDR:PORT",
        help="where rank 0 listens, else as the plan says"))  # fmt: skip
    secret_file: Path | None = field(default=None, metadata=option(
        "--secret-file", Path, reach=Reach.EVERY_RANK, group=WHICH_RANK, metavar="FILE",
        help="the shared secret, else $EDGELAUNCH_SECRET"))  # fmt: skip
    listen_fd: int | None = field(default=None, metadata=option(
        "--listen-fd", int, why="the parent gives rank 0 the socket that it listens at"))  # fmt: skip
    supervisor_fd: int | None = field(default=None, metadata=option(
        "--supervisor-fd", int, why="the parent gives each rank a channel to itself"))  # fmt: skip
    loopback: bool = field(default=False, metadata=option(
        "--loopback", why="the parent says so to each rank that it starts on this machine"))  # fmt: skip
    cores: tuple[int, ...] = field(default=(), metadata=option(
        "--core", lambda words: tuple(map(int, words)), several=True,
        why="the parent gives each rank that it starts on this machine cores of its own"))  # fmt: skip
    local: bool = field(default=False, metadata=option("--local", why=ALL_RANKS, help="all ranks on this machine"))
    quiet: bool = field(default=False, metadata=option(
        "--quiet", reach=Reach.EVERY_RANK, help="only results and errors"))  # fmt: skip
    json: bool = field(default=False, metadata=option(
        "--json", reach=Reach.DATA_HOST, help="on rank 0: one JSON object on standard output"))  # fmt: skip

    def words(self) -> list[str]:
        """The words after `edgelaunch` that are read as this request."""
        return [*([self.COMMAND] if self.COMMAND else []), *words_of(self)]
