"""The options of `edgelaunch serve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from edgecompile.contract.errors import UserError, invalid_value
from edgelaunch.common.addresses import LOOPBACK
from edgelaunch.request.option_fields import option, plan_argument
from edgelaunch.request.rank_request import ALL_RANKS, WHICH_RANK, RankRequest
from edgelaunch.request.run_request import DEFAULT_RESTARTS, RunRequest

__all__ = ["ServeRequest"]

HTTP = "HTTP, on rank 0"
OWN = "rank 0 is this process"
DEFAULT_PORT = 8000
LEAST_BODY = 1024
MOST_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class ServeRequest(RankRequest):
    """Raises UserError where a value is out of its range, or two of them do not go together."""

    COMMAND: ClassVar[str] = "serve"
    SERVICE: ClassVar[bool] = True

    plan_path: Path = field(metadata=plan_argument("plan.yaml: rank 0 answers requests, any other runs as usual"))
    local: bool = field(default=False, metadata=option(
        "--local", why=ALL_RANKS, group=WHICH_RANK, help="start every rank on this machine, on the CPU"))  # fmt: skip
    restarts: int | None = field(default=None, metadata=option(
        "--restarts", int, why=OWN, group=WHICH_RANK, metavar="N",
        help="with --local: how often to restart a rank that was killed or lost "
        f"(default {DEFAULT_RESTARTS})"))  # fmt: skip
    port: int = field(default=DEFAULT_PORT, metadata=option(
        "--port", int, why=OWN, group=HTTP, metavar="PORT",
        help=f"default {DEFAULT_PORT}; 0: any that is free"))  # fmt: skip
    bind: str = field(default=LOOPBACK, metadata=option(
        "--bind", str, why=OWN, group=HTTP, metavar="ADDRESS",
        help=f"default {LOOPBACK}, this machine alone; 0.0.0.0: all its networks"))  # fmt: skip
    api_key_file: Path | None = field(default=None, metadata=option(
        "--api-key-file", Path, why=OWN, group=HTTP, metavar="FILE",
        help="the key that requests must have, else $EDGELAUNCH_API_KEY, else none"))  # fmt: skip
    max_queue: int = field(default=256, metadata=option(
        "--max-queue", int, why=OWN, group=HTTP, metavar="N",
        help="items, or texts, that may be under way and wait; more are refused with 429 (default 256)"))  # fmt: skip
    max_body: int = field(default=16 << 20, metadata=option(
        "--max-body", int, why=OWN, group=HTTP, metavar="BYTES",
        help="of a request; a larger one is refused with 413 (default 16777216)"))  # fmt: skip
    request_timeout: float = field(default=120.0, metadata=option(
        "--request-timeout", float, why=OWN, group=HTTP, metavar="S",
        help="for a result, or a stream's next piece; then 504 (default 120)"))  # fmt: skip
    grace: float = field(default=10.0, metadata=option(
        "--grace", float, why=OWN, group=HTTP, metavar="S",
        help="for what is under way when it is told to stop (default 10)"))  # fmt: skip
    json: bool = field(default=False, metadata=option(
        "--json", why=OWN, help="once it answers: one JSON object with url and model on standard output"))  # fmt: skip

    def __post_init__(self) -> None:
        if self.local and (self.rank is not None or self.master is not None):
            raise UserError("--local starts every rank here: leave out --rank and --master")
        if self.local and self.secret_file is not None:
            raise UserError(
                "--secret-file is for ranks on several machines: those of this command share one of their own"
            )
        if not 0 <= self.port <= 65535:
            raise invalid_value(self.port, "--port", "0 to 65535")
        for name, value, least in (
            ("--max-queue", self.max_queue, 1), ("--max-body", self.max_body, LEAST_BODY),
            ("--restarts", self.restarts or 0, 0),
        ):  # fmt: skip
            if value < least:
                raise invalid_value(value, name, f"{least} or more")
        for name, seconds in (("--request-timeout", self.request_timeout), ("--grace", self.grace)):
            if not 0 < seconds <= MOST_SECONDS:
                raise invalid_value(seconds, name, f"a number greater than 0, at most {MOST_SECONDS:g}")

    def run_request(self) -> RunRequest:
        """Of the rank that this process runs."""
        return RunRequest(
            plan_path=self.plan_path, rank=self.rank, master=self.master, secret_file=self.secret_file,
            quiet=self.quiet, log_level=self.log_form.level if not self.quiet else None, log_json=self.log_json,
        )  # fmt: skip
