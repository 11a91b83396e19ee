"""`edgeplan export --perfetto`: writes a simulated or measured run as a Chrome/Perfetto trace.

The format is Chrome's Trace Event Format, JSON: complete events (`ph: X`) with microseconds, a process for each host
and a thread for each stage or link; of a run that generated text, one process more with a thread for each slot.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan_file import files_of_plan, read_plan
from edgecompile.contract.run_record import read_run
from edgecompile.explore import simulate
from edgecompile.explore.output import check_output, write_output
from edgecompile.explore.timeline.run_timeline import RequestSpan, requests_of_run, rows_of_run
from edgecompile.explore.timeline.stage_timeline import (
    COMPUTE,
    DRAIN,
    FILL,
    PACK,
    SEND,
    WAIT_INPUT,
    WAIT_SEND,
    Row,
    rows_of,
)

__all__ = ["add_options", "run", "trace_events"]

MOST_MICROBATCHES = 100_000
DEFAULT_MICROBATCHES = 50
COLOURS = {COMPUTE: "good", SEND: "rail_animation", PACK: "rail_load", WAIT_INPUT: "bad", WAIT_SEND: "terrible",
           FILL: "grey", DRAIN: "grey"}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--perfetto", metavar="FILE", required=True, help="write a trace there")
    parser.add_argument("--run", metavar="RUN", help="of this run, a run.json of edgelaunch; else of a simulated one")
    simulate.add_play_options(parser, microbatches=DEFAULT_MICROBATCHES)


def run(chosen: argparse.Namespace) -> int:
    """The command's body."""
    if not 1 <= chosen.microbatches <= MOST_MICROBATCHES:
        raise UserError(f"invalid value {chosen.microbatches} for --microbatches: expected 1 to {MOST_MICROBATCHES:,}")
    path = Path(chosen.perfetto)
    plan = read_plan(chosen.plan)
    read = list(files_of_plan(plan, Path(chosen.plan)))
    if chosen.run is not None:
        read.append((Path(chosen.run), "the run"))
    check_output(path, "trace.json", "--perfetto", read)
    if chosen.run is not None:
        record = read_run(Path(chosen.run))
        rows, requests = rows_of_run(record), requests_of_run(record)
    else:
        outcome = simulate.play(plan, chosen, trace=True)
        rows, requests = rows_of(outcome.simulation, outcome.plan.cluster), []
    events = trace_events(rows, requests)
    document = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"model": plan.model.name}}
    write_output(path, json.dumps(document))
    if chosen.json:
        print(json.dumps({"file": str(path), "num_events": len(events)}))
    elif not chosen.quiet:
        print(f"{len(events)} events in {path}: open it at https://ui.perfetto.dev (it stays in your browser)")
    return 0


def trace_events(rows: list[Row], requests: Sequence[RequestSpan] = ()) -> list[dict[str, Any]]:
    """The rows as events; hosts are numbered in the order in which they come, and requests come after them.

    Times count from whatever begins first.
    """
    hosts = list(dict.fromkeys(row.host for row in rows))
    begin_s = min((request.begin_s for request in requests if request.begin_s < 0), default=0.0)
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": number, "args": {"name": host}} for number, host in enumerate(hosts)
    ]
    for thread, row in enumerate(rows):
        place = {"pid": hosts.index(row.host), "tid": thread}
        events.append({"ph": "M", "name": "thread_name", **place, "args": {"name": row.name}})
        events.append({"ph": "M", "name": "thread_sort_index", **place, "args": {"sort_index": thread}})
        for span in row.spans:
            works = span.what in (COMPUTE, SEND, PACK)
            event = {
                "ph": "X",
                "name": f"{span.what} {span.microbatch}" if works else span.what,
                "cat": span.what,
                "ts": (span.begin_s - begin_s) * 1e6,
                "dur": (span.end_s - span.begin_s) * 1e6,
                "cname": COLOURS[span.what],
                **place,
            }
            events.append(event if span.microbatch is None else event | {"args": {"microbatch": span.microbatch}})
    return [*events, *_request_events(requests, len(hosts), len(rows), begin_s)]


def _request_events(
    requests: Sequence[RequestSpan], process: int, first_thread: int, begin_s: float
) -> Iterator[dict[str, Any]]:
    """A thread for each slot; in each request lie its prompt and its answer."""
    if requests:
        yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": "requests"}}
    for slot in sorted({request.slot for request in requests}):
        place = {"pid": process, "tid": first_thread + slot}
        yield {"ph": "M", "name": "thread_name", **place, "args": {"name": f"slot {slot}"}}
        yield {"ph": "M", "name": "thread_sort_index", **place, "args": {"sort_index": first_thread + slot}}
    for request in requests:
        place = {"pid": process, "tid": first_thread + request.slot}
        counts = {"prompt_tokens": request.prompt_tokens, "tokens": request.tokens, "rebuilt": request.rebuilt}
        again = f", rebuilt {request.rebuilt} times" if request.rebuilt else ""
        for name, kind, colour, begin, end in (
            (f"request{again}", "request", "grey", request.begin_s, request.end_s),
            (f"prompt of {request.prompt_tokens}", "prompt", "rail_load", request.begin_s, request.first_s),
            (f"answer of {request.tokens}", "answer", "good", request.first_s, request.end_s),
        ):
            yield {"ph": "X", "name": name, "cat": kind, "cname": colour, "ts": (begin - begin_s) * 1e6,
                   "dur": (end - begin) * 1e6, "args": counts, **place}  # fmt: skip
