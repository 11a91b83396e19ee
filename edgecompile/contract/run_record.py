"""The record of a run (run.json) that edgelaunch writes and edgeplan reads. Imports no torch.

All times are seconds, sizes bytes; stamps are nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import read_text
from edgecompile.contract.yaml_decode import decode

__all__ = [
    "RECORD_VERSION",
    "LinkRecord",
    "Percentiles",
    "Positions",
    "Rates",
    "RequestRecord",
    "RunRecord",
    "StageRecord",
    "TextRecord",
    "read_run",
    "run_text",
    "run_values",
]

RECORD_VERSION = 1
MAX_RECORD_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    count: int
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    stage: int
    rank: int
    host: str
    machine: str
    """Of one boot of one machine: stamps of equal ones can be compared."""
    units: tuple[int, int]
    microbatches: int
    compute_s: float
    """The median of a microbatch."""
    predicted_s: float
    wait_input_s: float
    """Mean of a microbatch, as the two below."""
    wait_output_s: float
    pack_s: float
    busy: float
    """The share of its time that the stage computes."""
    trace: tuple[tuple[int, int, int, int, int], ...]
    """Of the last microbatches: when the stage began to wait, had its input, had computed, had room, had packed."""


@dataclass(frozen=True, kw_only=True)
class LinkRecord:
    boundary: int
    """0 feeds stage 0, i + 1 comes out of stage i."""
    source: str
    destination: str
    transfer_s: float | None
    """Of a message; None where its sender was lost before it could say."""
    predicted_s: float | None
    num_bytes: int
    """Over the whole run, as the receiver counted them."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Items with results in each stretch of `step_s` seconds, the first result's time being 0."""

    step_s: float
    items: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Such as tokens, over the whole run."""

    useful: int
    """The items' own."""
    computed: int
    """Of the messages that they were sent in, padding included."""


@dataclass(frozen=True, kw_only=True)
class RequestRecord:
    """A request for text that had a slot, and came to a token at least."""

    slot: int
    begun_ns: int
    """When it got its slot; when its first and its last token came."""
    first_ns: int
    last_ns: int
    prompt_tokens: int
    tokens: int
    rebuilt: int
    """How often its state was made again."""


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """Of a run that generated text."""

    machine: str
    """The data host's, as of a stage."""
    requests: int
    """Those that have ended, however they did."""
    cancelled: int
    prompt_tokens: int
    tokens: int
    rebuilt: int
    first_token: Percentiles
    """From asking to the first token, the wait for a slot included."""
    first_token_alone: Percentiles
    """The same from the slot on."""
    token: Percentiles
    """Between two tokens, the mean of each answer."""
    predicted_first_token_s: float
    predicted_token_s: float
    trace: tuple[RequestRecord, ...]
    """The last ones, in the order in which they ended."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    version: int
    plan_sha256: str
    model: str
    microbatch: int
    began: str
    """UTC, ISO 8601."""
    num_items: int
    elapsed_s: float
    throughput_items_per_s: float
    steady_items_per_s: float | None
    """Without the first results, before which the pipeline fills; None for too few."""
    predicted_items_per_s: float
    bottleneck: str
    predicted_bottleneck: str
    latency: Percentiles | None
    stages: tuple[StageRecord, ...]
    links: tuple[LinkRecord, ...]
    pauses_s: tuple[float, ...]
    """From the last result before a lost rank to the first after it."""
    rates: Rates
    positions: Positions | None = None
    """None, and not written, where all items have the same size."""
    text: TextRecord | None = None
    """None, and not written, of a run that generated none."""


def run_values(record: RunRecord) -> dict[str, Any]:
    """The record as plain values."""
    values = asdict(record)
    for name in ("positions", "text"):
        if values[name] is None:
            del values[name]
    return values


def run_text(record: RunRecord) -> str:
    return json.dumps(run_values(record)) + "\n"


def read_run(path: Path) -> RunRecord:
    """Raises UserError where the file is not a record of a run that this version reads."""
    hint = "edgelaunch writes it beside the plan, or where --run says"
    text = read_text(path, what="record of a run", max_bytes=MAX_RECORD_BYTES, hint=hint)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not a record of a run: not JSON") from None
    version = document.get("version") if isinstance(document, dict) else None
    if version != RECORD_VERSION:
        raise UserError(f"{path}: not a record of a run of version {RECORD_VERSION}: run edgelaunch again")
    return decode(RunRecord, document, where=str(path))
