"""Orders to an agent, as JSON: run one rank, measure links as one, or profile models."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgelaunch.boards.signed_requests import SHA256
from edgelaunch.common.addresses import read_address
from edgelaunch.common.failures import Failure
from edgelaunch.request.links_request import LinksRequest
from edgelaunch.request.option_fields import Reach, options_of
from edgelaunch.request.run_request import RunRequest

__all__ = ["FILE_NAME", "JOB", "JobKind", "JobNews", "JobOrder", "words_for_data_host"]

JOB = re.compile(r"[0-9a-f]{32}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
MODEL = re.compile(r"[a-z][a-z0-9_]{0,63}")
MOST_RESTARTS, MOST_THREADS, MOST_RANKS, MOST_MODELS = 1000, 4096, 1 << 20, 32
MOST_LETTERS = 1 << 20
NOT_SENT = "0" * 64
"""Of no plan."""


class JobKind(str, Enum):
    RUN = "run"
    LINKS = "links"
    PROFILE = "profile"


@dataclass(frozen=True, kw_only=True)
class JobOrder:
    """Raises UserError where a value is not allowed: it came over the network."""

    job: str
    kind: JobKind
    caller: str = ""
    """Who asks, for others to read."""
    plan_sha256: str = NOT_SENT
    rank: int = 0
    master: str = ""
    """ADDRESS:PORT where rank 0 listens; empty: as the plan says."""
    restarts: int = 0
    threads: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    """Of the data host: the field of the request and its word; empty for one that has none."""
    input_sha256: str = ""
    input_name: str = ""
    output_name: str = ""
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(JOB.fullmatch(self.job), "job")
        _require(len(self.caller) <= 200 and self.caller.isprintable(), "caller")
        if self.kind is JobKind.PROFILE:
            _require(0 < len(self.models) <= MOST_MODELS, "models")
            _require(all(MODEL.fullmatch(name) for name in self.models), "models")
            return
        _require(SHA256.fullmatch(self.plan_sha256), "plan_sha256")
        _require(0 <= self.rank < MOST_RANKS, "rank")
        _require(0 <= self.restarts <= MOST_RESTARTS, "restarts")
        _require(self.threads is None or 1 <= self.threads <= MOST_THREADS, "threads")
        if self.master:
            read_address("master", self.master)
        known = words_for_data_host(self.request_class)
        for name, word in self.options:
            _require(name in known and len(word) <= MOST_LETTERS, "options")
        _require(not self.input_name or FILE_NAME.fullmatch(self.input_name), "input_name")
        _require(bool(self.input_name) == bool(SHA256.fullmatch(self.input_sha256)), "input_sha256")
        _require(not self.output_name or FILE_NAME.fullmatch(self.output_name), "output_name")

    @property
    def request_class(self) -> type[RunRequest] | type[LinksRequest]:
        return LinksRequest if self.kind is JobKind.LINKS else RunRequest

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def read(text: bytes) -> JobOrder:
        values = read_object(text)
        texts = ("job", "caller", "plan_sha256", "master", "input_sha256", "input_name", "output_name")
        numbers = ("rank", "restarts")
        allowed = {*texts, *numbers, "kind", "threads", "options", "models"}
        _require(set(values) <= allowed, "a key")
        for names, kind in ((texts, str), (numbers, int)):
            for name in names:
                value = values.get(name, kind())
                _require(isinstance(value, kind) and not isinstance(value, bool), name)
        threads, options, models = values.get("threads"), values.get("options", []), values.get("models", [])
        _require(threads is None or (isinstance(threads, int) and not isinstance(threads, bool)), "threads")
        pairs = isinstance(options, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair)
            for pair in options
        )
        _require(pairs and len(options) < 100, "options")
        _require(isinstance(models, list) and all(isinstance(name, str) for name in models), "models")
        kinds = {kind.value for kind in JobKind}
        _require(values.get("kind") in kinds if isinstance(values.get("kind"), str) else False, "kind")
        return JobOrder(**{**values, "kind": JobKind(values["kind"]), "models": tuple(models),
                           "options": tuple((name, word) for name, word in options)})  # fmt: skip

    def request(self, plan: Path, input: Path | None, output: Path | None, record: Path) -> RunRequest | LinksRequest:
        """The rank's request; paths are the agent's own.

        Raises:
            UserError: an option has no such value, or the options do not go together.
        """
        known = words_for_data_host(self.request_class)
        values: dict[str, Any] = {}
        for name, word in self.options:
            read = known[name]
            try:
                values[name] = True if read is None else read(word)
            except ValueError:
                raise _refused("options") from None
        values |= {"plan_path": plan, "rank": self.rank}
        if self.kind is JobKind.LINKS:
            return LinksRequest(**values)
        return RunRequest(**values, input=input, output=output, run=record)


def words_for_data_host(request: type[Any]) -> Mapping[str, Any]:
    """The options that a caller may set for a rank, with what reads their words: none names a file, or what is at
    another's terminal. The page is asked for as the rank itself is, by who knows the secret."""
    return {
        item.name: known.read
        for item, known in options_of(request)
        if known.reach is not Reach.PARENT
        and known.flag
        and known.read is not Path
        and item.name not in ("metrics_port", "chat", "resume")
    }


@dataclass(frozen=True, kw_only=True)
class JobNews:
    """What a job printed since one was last asked, and how it ended if it has."""

    next: int
    entries: tuple[tuple[str, str], ...] = ()
    """`out` or `err`, and the text."""
    ended: bool = False
    failure: Failure | None = None
    files: tuple[str, ...] = ()
    """What there is to be fetched, once it has ended."""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def read(text: bytes) -> JobNews:
        """Raises UserError where it is something else."""
        values = read_object(text)
        try:
            failure = Failure.read(values["failure"]) if values["failure"] is not None else None
            entries = tuple((str(stream), str(words)) for stream, words in values["entries"])
            files = tuple(str(name) for name in values["files"])
            return JobNews(next=int(values["next"]), entries=entries, ended=bool(values["ended"]), failure=failure,
                           files=tuple(name for name in files if FILE_NAME.fullmatch(name)))  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise UserError("the agent's news cannot be read: install the same edgecompile on it") from None


def read_object(text: bytes) -> dict[str, Any]:
    """Raises UserError where it is not a JSON object."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError("the request's body is not a JSON object")
    return values


def _require(holds: object, key: str) -> None:
    if not holds:
        raise _refused(key)


def _refused(key: str) -> UserError:
    return UserError(f"the order has a value that is not allowed in {key}: install the same edgecompile on both ends")
