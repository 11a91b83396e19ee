"""The options of the commands for boards with agents: `edgelaunch agent`, `boards` and `profile`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address
from edgelaunch.request.board_addresses import AGENT_PORT, read_joins
from edgelaunch.request.log_options import LogOptions
from edgelaunch.request.option_fields import option, words_argument

__all__ = ["AgentRequest", "BoardsRequest", "ProfileRequest"]

OWN = "no rank is started with it"
DEFAULT_WAIT_S = 2.0
MOST_WAIT_S = 600.0
SECRET = option("--secret-file", Path, why=OWN, metavar="FILE", help="the shared secret, else $EDGELAUNCH_SECRET")
JOIN = option(
    "--join", read_joins, why=OWN, metavar="ADDRESS[:PORT]", several=True,
    help=f"a board to ask, and those that joined it, instead of mDNS; may be given again (port: {AGENT_PORT})",
)  # fmt: skip
WAIT = option("--wait", float, why=OWN, metavar="S",
              help=f"how long boards may take to answer by mDNS (default {DEFAULT_WAIT_S:g})")  # fmt: skip
MODEL = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True)
class AgentRequest(LogOptions):
    """Raises UserError where a value is out of its range."""

    COMMAND: ClassVar[str] = "agent"
    SERVICE: ClassVar[bool] = True

    name: str | None = field(default=None, metadata=option(
        "--name", str, why=OWN, metavar="NAME", help="what the board is called, else its host name"))  # fmt: skip
    address: str = field(default="0.0.0.0", metadata=option(  # noqa: S104 - a board is asked from the network
        "--address", str, why=OWN, metavar="ADDRESS", help="listen at this one alone, else at all (IPv4)"))  # fmt: skip
    port: int = field(default=AGENT_PORT, metadata=option(
        "--port", int, why=OWN, metavar="PORT", help=f"to listen at (default {AGENT_PORT})"))  # fmt: skip
    folder: Path | None = field(default=None, metadata=option(
        "--folder", Path, why=OWN, metavar="DIR",
        help="where plans and shards are kept, else $STATE_DIRECTORY or ~/.local/state/edgelaunch"))  # fmt: skip
    join: tuple[Address, ...] = field(default=(), metadata=option(
        "--join", read_joins, why=OWN, metavar="ADDRESS[:PORT]", several=True,
        help="tell the agent of another board that this one is here; may be given again"))  # fmt: skip
    no_mdns: bool = field(default=False, metadata=option("--no-mdns", why=OWN, help="do not announce it by mDNS"))
    stdio: bool = field(default=False, metadata=option("--stdio", why=OWN))
    secret_file: Path | None = field(default=None, metadata=SECRET)
    quiet: bool = field(default=False, metadata=option("--quiet", why=OWN, help="only errors"))

    def __post_init__(self) -> None:
        if not 0 < self.port < 1 << 16:
            raise UserError(f"invalid value {self.port} for --port: expected 1 to 65535")
        if self.name is not None and not (0 < len(self.name) <= 63 and self.name.isprintable()):
            raise UserError(f"invalid value {self.name!r} for --name: expected 1 to 63 printable letters")


@dataclass(frozen=True, kw_only=True)
class BoardsRequest(LogOptions):
    """Raises UserError where a value is out of its range."""

    COMMAND: ClassVar[str] = "boards"

    secret_file: Path | None = field(default=None, metadata=SECRET)
    join: tuple[Address, ...] = field(default=(), metadata=JOIN)
    wait: float = field(default=DEFAULT_WAIT_S, metadata=WAIT)
    links: bool = field(default=False, metadata=option(
        "--links", why=OWN, help="measure bandwidth and latency between all pairs"))  # fmt: skip
    seconds: float = field(default=0.5, metadata=option(
        "--seconds", float, why=OWN, metavar="S", help="how long a transfer takes at least (default 0.5)"))  # fmt: skip
    output: Path | None = field(default=None, metadata=option(
        "--output", Path, why=OWN, metavar="DIR",
        help="write devices/found.yaml and hosts/found.yaml there, for edgecompile --config-dir DIR devices=found "
        "hosts=found"))  # fmt: skip
    first: str | None = field(default=None, metadata=option(
        "--first", str, why=OWN, metavar="NAME",
        help="the board that feeds inputs and takes results, else this machine if it is one"))  # fmt: skip
    json: bool = field(default=False, metadata=option(
        "--json", why=OWN, help="for scripts: one JSON object on standard output"))  # fmt: skip
    quiet: bool = field(default=False, metadata=option("--quiet", why=OWN, help="only results and errors"))

    def __post_init__(self) -> None:
        _check_wait(self.wait)
        if not 0 < self.seconds <= MOST_WAIT_S:
            raise UserError(
                f"invalid value {self.seconds:g} for --seconds: expected more than 0, at most {MOST_WAIT_S:g}"
            )


@dataclass(frozen=True, kw_only=True)
class ProfileRequest(LogOptions):
    """Raises UserError where a value is out of its range."""

    COMMAND: ClassVar[str] = "profile"

    models: tuple[str, ...] = field(metadata=words_argument(
        "MODEL", "a model option that comes with edgecompile, such as deit_tiny; or several"))  # fmt: skip
    boards: bool = field(default=False, metadata=option(
        "--boards", why=OWN, help="on all boards at once: the files come here"))  # fmt: skip
    each: bool = field(default=False, metadata=option(
        "--each", why=OWN,
        help="also boards of a kind that is measured already: says which differ by more than 10 %%"))  # fmt: skip
    secret_file: Path | None = field(default=None, metadata=SECRET)
    join: tuple[Address, ...] = field(default=(), metadata=JOIN)
    wait: float = field(default=DEFAULT_WAIT_S, metadata=WAIT)
    output: Path = field(default=Path("profiles"), metadata=option(
        "--output", Path, why=OWN, metavar="DIR",
        help="where the profiles go (default profiles, where edgecompile profile=measured looks)"))  # fmt: skip
    json: bool = field(default=False, metadata=option(
        "--json", why=OWN, help="for scripts: one JSON object on standard output"))  # fmt: skip
    quiet: bool = field(default=False, metadata=option("--quiet", why=OWN, help="only results and errors"))

    def __post_init__(self) -> None:
        _check_wait(self.wait)
        if not self.boards:
            raise UserError(
                "edgelaunch profile is for boards with agents: add --boards; edgeprofile measures this machine"
            )
        for name in self.models:
            if not MODEL.fullmatch(name):
                raise UserError(f"invalid value {name!r} for MODEL: expected a model option such as deit_tiny")


def _check_wait(wait: float) -> None:
    if not 0 <= wait <= MOST_WAIT_S:
        raise UserError(f"invalid value {wait:g} for --wait: expected 0 to {MOST_WAIT_S:g} seconds")
