"""The options of `edgelaunch serve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from edgecompile.contract.errors import invalid_value
from edgelaunch.common.addresses import LOOPBACK
from edgelaunch.request.option_fields import Reach, option, plan_argument
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.start_request import StartRequest

__all__ = ["ServeRequest"]

HTTP = "HTTP, on rank 0"
DEFAULT_PORT = 8000
LEAST_BODY = 1024
MOST_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class ServeRequest(StartRequest):
    """Raises UserError where a value is out of its range, or two of them do not go together."""

    COMMAND: ClassVar[str] = "serve"
    SERVICE: ClassVar[bool] = True

    plan_path: Path = field(metadata=plan_argument("plan.yaml: rank 0 answers requests, any other runs as usual"))
    port: int = field(default=DEFAULT_PORT, metadata=option(
        "--port", int, reach=Reach.DATA_HOST, group=HTTP, metavar="PORT",
        help=f"default {DEFAULT_PORT}; 0: any that is free"))  # fmt: skip
    bind: str = field(default=LOOPBACK, metadata=option(
        "--bind", str, reach=Reach.DATA_HOST, group=HTTP, metavar="ADDRESS",
        help=f"default {LOOPBACK}, this machine alone; 0.0.0.0: all its networks"))  # fmt: skip
    api_key_file: Path | None = field(default=None, metadata=option(
        "--api-key-file", Path, reach=Reach.DATA_HOST, group=HTTP, metavar="FILE",
        help="the key that requests must have, else $EDGELAUNCH_API_KEY, else none"))  # fmt: skip
    max_queue: int = field(default=256, metadata=option(
        "--max-queue", int, reach=Reach.DATA_HOST, group=HTTP, metavar="N",
        help="items, or texts, that may be under way and wait; more are refused with 429 (default 256)"))  # fmt: skip
    max_body: int = field(default=16 << 20, metadata=option(
        "--max-body", int, reach=Reach.DATA_HOST, group=HTTP, metavar="BYTES",
        help="of a request; a larger one is refused with 413 (default 16777216)"))  # fmt: skip
    max_connections: int = field(default=512, metadata=option(
        "--max-connections", int, reach=Reach.DATA_HOST, group=HTTP, metavar="N",
        help="that are open at once; more are refused with 503 (default 512)"))  # fmt: skip
    request_timeout: float = field(default=120.0, metadata=option(
        "--request-timeout", float, reach=Reach.DATA_HOST, group=HTTP, metavar="S",
        help="for a result, or a stream's next piece; then 504 (default 120)"))  # fmt: skip
    grace: float = field(default=10.0, metadata=option(
        "--grace", float, reach=Reach.DATA_HOST, group=HTTP, metavar="S",
        help="for what is under way when it is told to stop (default 10)"))  # fmt: skip
    json: bool = field(default=False, metadata=option(
        "--json", reach=Reach.DATA_HOST,
        help="once it answers: one JSON object with url and model on standard output"))  # fmt: skip
    run: Path | None = field(default=None, metadata=option(
        "--run", Path, reach=Reach.DATA_HOST, metavar="FILE",
        help="at the end: the run's record for edgeplan report (default: run.json by the plan)"))  # fmt: skip
    http_fd: int | None = field(default=None, metadata=option(
        "--http-fd", int, reach=Reach.DATA_HOST))  # fmt: skip

    def __post_init__(self) -> None:
        self.check_ways()
        if not 0 <= self.port <= 65535:
            raise invalid_value(self.port, "--port", "0 to 65535")
        for name, value, least in (
            ("--max-queue", self.max_queue, 1), ("--max-body", self.max_body, LEAST_BODY),
            ("--max-connections", self.max_connections, 1),
        ):  # fmt: skip
            if value < least:
                raise invalid_value(value, name, f"{least} or more")
        for name, seconds in (("--request-timeout", self.request_timeout), ("--grace", self.grace)):
            if not 0 < seconds <= MOST_SECONDS:
                raise invalid_value(seconds, name, f"a number greater than 0, at most {MOST_SECONDS:g}")

    @property
    def starts_rank_0(self) -> bool:
        """Whether rank 0 too is a process that this command starts."""
        return self.starts_others and not self.local

    def run_request(self) -> RunRequest:
        """Of the rank that this process runs."""
        return RunRequest(
            plan_path=self.plan_path, rank=self.rank, master=self.master, secret_file=self.secret_file,
            quiet=self.quiet, log_level=self.log_form.level if not self.quiet else None, log_json=self.log_json,
            threads=self.threads, listen_fd=self.listen_fd, supervisor_fd=self.supervisor_fd, loopback=self.loopback,
            cores=self.cores,
        )  # fmt: skip
