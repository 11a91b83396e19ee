"""`edgeplan export --perfetto`: writes a simulated or measured run as a Chrome/Perfetto trace.

The format is Chrome's Trace Event Format, JSON: complete events (`ph: X`) with microseconds, a process for each host
and a thread for each stage or link.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan_file import files_of_plan, read_plan
from edgecompile.contract.run_record import read_run
from edgecompile.explore import simulate
from edgecompile.explore.output import check_output, write_output
from edgecompile.explore.timeline.run_timeline import rows_of_run
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
        rows = rows_of_run(read_run(Path(chosen.run)))
    else:
        outcome = simulate.play(plan, chosen, trace=True)
        rows = rows_of(outcome.simulation, outcome.plan.cluster)
    events = trace_events(rows)
    document = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"model": plan.model.name}}
    write_output(path, json.dumps(document))
    if chosen.json:
        print(json.dumps({"file": str(path), "num_events": len(events)}))
    elif not chosen.quiet:
        print(f"{len(events)} events in {path}: open it at https://ui.perfetto.dev (it stays in your browser)")
    return 0


def trace_events(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as events; hosts are numbered in the order in which they come."""
    hosts = list(dict.fromkeys(row.host for row in rows))
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
                "ts": span.begin_s * 1e6,
                "dur": (span.end_s - span.begin_s) * 1e6,
                "cname": COLOURS[span.what],
                **place,
            }
            events.append(event if span.microbatch is None else event | {"args": {"microbatch": span.microbatch}})
    return events
