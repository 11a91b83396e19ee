"""The options of `edgelaunch links` and `edgelaunch doctor`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from edgecompile.contract.errors import UserError
from edgelaunch.request.option_fields import Reach, option, plan_argument
from edgelaunch.request.rank_request import ALL_RANKS, CHOSEN, RankRequest

__all__ = ["DoctorRequest", "LinksRequest"]

MOST_SECONDS = 600.0
DEFAULT_SECONDS = 0.5
SECONDS = option("--seconds", float, reach=Reach.EVERY_RANK, metavar="S",
                 help=f"how long a transfer takes at least (default {DEFAULT_SECONDS:g})")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LinksRequest(RankRequest):
    """Raises UserError where a value is out of its range, or two of them do not go together."""

    COMMAND: ClassVar[str] = "links"

    plan_path: Path = field(metadata=plan_argument("plan.yaml: its hosts are measured; shards are not needed"))
    local: bool = field(default=False, metadata=option(
        "--local", why=ALL_RANKS, help="every rank on this machine: measures the loopback"))  # fmt: skip
    output: Path | None = field(default=None, metadata=option(
        "--output", Path, reach=Reach.DATA_HOST, metavar="FILE",
        help="on rank 0: the hosts option, a .yaml file; without it, standard output. In a "
        "folder called hosts it has its devices option beside it"))  # fmt: skip
    seconds: float = field(default=DEFAULT_SECONDS, metadata=SECONDS)
    quiet: bool = field(default=False, metadata=option(
        "--quiet", reach=Reach.EVERY_RANK, help="only the hosts option and errors"))  # fmt: skip
    json: bool = field(default=False, metadata=option(
        "--json", reach=Reach.DATA_HOST,
        help="on rank 0: for scripts, what was measured as JSON on standard output"))  # fmt: skip
    threads: int | None = field(default=None, metadata=option("--threads", int, why=CHOSEN))

    def __post_init__(self) -> None:
        if self.local and (self.rank is not None or self.master is not None):
            raise UserError("--local starts every rank here: leave out --rank and --master")
        _check_seconds(self.seconds)
        if self.output is not None and self.output.suffix not in (".yaml", ".yml"):
            raise UserError(f"{self.output}: a hosts option is a .yaml file")


@dataclass(frozen=True, kw_only=True)
class DoctorRequest(RankRequest):
    """Raises UserError where a value is out of its range, or two of them do not go together."""

    COMMAND: ClassVar[str] = "doctor"

    local: bool = field(default=False, metadata=option(
        "--local", why=ALL_RANKS,
        help="check this machine for all ranks, as edgelaunch --local starts them"))  # fmt: skip
    links: bool = field(default=False, metadata=option(
        "--links", reach=Reach.EVERY_RANK,
        help="measure all links too and compare: started on every host at once"))  # fmt: skip
    seconds: float = field(default=DEFAULT_SECONDS, metadata=SECONDS)
    quiet: bool = field(default=False, metadata=option(
        "--quiet", reach=Reach.EVERY_RANK, help="only what is not well"))  # fmt: skip
    json: bool = field(default=False, metadata=option(
        "--json", reach=Reach.DATA_HOST,
        help="for scripts: what was found as one JSON object on standard output"))  # fmt: skip

    def __post_init__(self) -> None:
        if self.local and (self.rank is not None or self.master is not None or self.links):
            raise UserError("--local checks this machine for all ranks: leave out --rank, --master and --links")
        if self.links:
            _check_seconds(self.seconds)


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds <= MOST_SECONDS:
        raise UserError(
            f"invalid value {seconds:g} for --seconds: expected a number greater than 0, at most {MOST_SECONDS:g}"
        )
