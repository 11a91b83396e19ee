"""The options of `edgelaunch top`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address, read_address
from edgelaunch.request.board_addresses import read_joins
from edgelaunch.request.log_options import LogOptions
from edgelaunch.request.option_fields import option, plan_argument

__all__ = ["TopRequest"]

OWN = "no rank is started with it"
LEAST_S, MOST_S = 0.2, 3600.0


@dataclass(frozen=True, kw_only=True)
class TopRequest(LogOptions):
    """Raises UserError where a value is out of its range, or two of them do not go together."""

    COMMAND: ClassVar[str] = "top"

    plan_path: Path | None = field(default=None, metadata=plan_argument(
        "plan.yaml of a pipeline that runs, here or elsewhere; without one: list those that run here", optional=True
    ))  # fmt: skip
    master: Address | None = field(default=None, metadata=option(
        "--master", partial(read_address, "--master"), why=OWN, metavar="ADDR:PORT",
        help="where rank 0 listens, if it is not here and not as the plan says"))  # fmt: skip
    secret_file: Path | None = field(default=None, metadata=option(
        "--secret-file", Path, why=OWN, metavar="FILE",
        help="the secret that the ranks share, else $EDGELAUNCH_SECRET; not needed on rank 0's machine"))  # fmt: skip
    boards: bool = field(default=False, metadata=option(
        "--boards", why=OWN, help="list what the boards' agents do, too, as mDNS finds them"))  # fmt: skip
    join: tuple[Address, ...] = field(default=(), metadata=option(
        "--join", read_joins, why=OWN, metavar="ADDRESS[:PORT]", several=True,
        help="the same of this board, and of those that joined it"))  # fmt: skip
    once: bool = field(default=False, metadata=option("--once", why=OWN, help="show it once, and end"))
    every: float = field(default=0.5, metadata=option(
        "--every", float, why=OWN, metavar="S", help="seconds between two views (default 0.5)"))  # fmt: skip
    json: bool = field(default=False, metadata=option(
        "--json", why=OWN, help="for scripts: a JSON object a line on standard output"))  # fmt: skip

    def __post_init__(self) -> None:
        if not LEAST_S <= self.every <= MOST_S:
            raise UserError(f"invalid value {self.every:g} for --every: expected {LEAST_S:g} to {MOST_S:g} seconds")
        if self.plan_path is None and self.master is not None:
            raise UserError("--master says where a plan's rank 0 is: name the plan, too")
        if self.plan_path is not None and (self.boards or self.join):
            raise UserError("--boards and --join list what boards do: leave out the plan")
