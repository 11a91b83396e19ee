"""`edgeplan report`: one self-contained HTML file about a plan, and where there is one about a run and a sweep.

No script and no request: a content security policy forbids both. Colours follow the reader's light or dark theme.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgecompile.errors import UserError
from edgecompile.explore.output import check_output, write_output
from edgecompile.explore.picture import STYLE, bars, cluster_picture, curve, table, tiles, timeline
from edgecompile.explore.proof import proof
from edgecompile.explore.run_timeline import rows_of_run
from edgecompile.explore.timeline import simulated_rows
from edgecompile.files import check_ours, check_regular, read_text
from edgecompile.plan import Plan, file_sha256, read_plan
from edgecompile.quantities import format_bytes, format_time
from edgecompile.run_record import RunRecord, read_run

__all__ = ["add_options", "page", "read_sweep", "run"]

DRAWN = 12
"""Microbatches in a timeline."""
MOST_JOBS = 200
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""In a report's first lines, by which it is known: one may be written over without being named."""
MAX_MANIFEST_BYTES = 16 << 20


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", help="a plan.yaml")
    parser.add_argument("run", nargs="?", help="a run.json of edgelaunch; without it, the plan alone")
    parser.add_argument("--sweep", metavar="DIR", help="a multirun's folder, with its manifest.json")
    parser.add_argument("--output", metavar="FILE", help="the HTML file (default: report.html beside the plan)")


def run(chosen: argparse.Namespace) -> int:
    """The command's body."""
    plan_path = Path(chosen.plan)
    if chosen.run is not None:
        check_regular(plan_path, "the plan of a run", "its bytes are read again to compare them: write it to a file")
    plan = read_plan(plan_path)
    record = read_run(Path(chosen.run)) if chosen.run is not None else None
    if record is not None and record.plan_sha256 != file_sha256(plan_path):
        raise UserError(f"{chosen.run}: a run of another plan than {plan_path}: give that plan")
    jobs = read_sweep(Path(chosen.sweep)) if chosen.sweep is not None else []
    output = Path(chosen.output) if chosen.output is not None else plan_path.parent / "report.html"
    read = [(plan_path, "the plan")]
    if chosen.run is not None:
        read.append((Path(chosen.run), "the run"))
    if chosen.sweep is not None:
        read.append((Path(chosen.sweep) / "manifest.json", "the sweep's manifest"))
    check_output(output, "report.html", "--output", read)
    if chosen.output is None:
        check_ours(output, re.escape(POLICY), "report of edgeplan", "name another --output")
    write_output(output, page(plan, record, jobs))
    print(f"report: {output}")
    return 0


def read_sweep(folder: Path) -> list[dict[str, Any]]:
    path = folder / "manifest.json"
    text = read_text(path, what="manifest of a sweep", max_bytes=MAX_MANIFEST_BYTES,
                     hint="name the folder of an edgecompile -m")  # fmt: skip
    try:
        jobs = json.loads(text)["jobs"]
        return [{"overrides": [str(word) for word in job["overrides"]],
                 "throughput": None if job["error"] else float(job["throughput_items_per_s"])}
                for job in jobs[:MOST_JOBS]]  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: no manifest of a sweep") from None


def page(plan: Plan, record: RunRecord | None, jobs: Sequence[dict[str, Any]]) -> str:
    """The whole document."""
    title = f"{plan.model.name} on {len({stage.rank for stage in plan.stages})} hosts"
    body = "\n".join(_sections(plan, record, jobs))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _sections(plan: Plan, record: RunRecord | None, jobs: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield _summary(plan, record)
    yield _section("Cluster", "Who computes what, from top to bottom; the data host feeds it and takes the results.",
                   cluster_picture(plan))  # fmt: skip
    yield _section("Plan", "Times are of a microbatch.", _plan_table(plan))
    if record is not None:
        yield _section("Measured beside predicted", "Each pair of bars: measured above, predicted below.",
                       bars(_measured(record)))  # fmt: skip
        if sum(1 for count in record.rates.items if count) > 1:
            yield _section("Throughput over time", _over_time(record),
                           curve(record.rates.step_s, record.rates.items, record.predicted_items_per_s,
                                 record.microbatch))  # fmt: skip
        rows = rows_of_run(record, DRAWN)
        if rows:
            yield _section("Timeline, measured", f"The run's last {DRAWN} microbatches.", timeline(rows))
    yield _section("Timeline, simulated", f"The first {DRAWN} microbatches, as the plan predicts them.",
                   timeline(simulated_rows(plan, DRAWN)))  # fmt: skip
    if jobs:
        rated = [(" ".join(job["overrides"]), job["throughput"], None) for job in jobs]
        yield _section("Sweep", "Predicted items a second of each point.", bars(rated, unit="items/s"))


def _section(title: str, text: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(text)}</p>\n{content}\n</section>"


def _summary(plan: Plan, record: RunRecord | None) -> str:
    predicted = plan.predicted
    facts = [("predicted", f"{predicted.throughput_items_per_s:.3g} items/s"),
             ("latency", format_time(predicted.latency_s)),
             ("microbatch", str(plan.model.microbatch)),
             ("bottleneck", predicted.bottleneck.replace("->", "\u2192"))]  # fmt: skip
    if record is not None:
        measured = record.steady_items_per_s or record.throughput_items_per_s
        error = predicted.throughput_items_per_s / measured - 1 if measured else 0.0
        facts.insert(0, ("measured", f"{measured:.3g} items/s"))
        facts.insert(2, ("prediction is off by", f"{error:+.1%}"))
        if record.bottleneck:
            facts.append(("measured bottleneck", record.bottleneck.replace("->", "\u2192")))
    words = proof(plan.certificate, plan.objective)
    return tiles(facts) + f"<p>{escape(words[0].upper() + words[1:])}.</p>"


def _plan_table(plan: Plan) -> str:
    rows = []
    for stage in plan.stages:
        host = plan.hosts[stage.rank]
        memory = f"{format_bytes(stage.predicted.memory_bytes)} of {format_bytes(host.limits.memory_bytes)}"
        rows.append((str(stage.stage), host.name, f"{stage.units[0]}\u2013{stage.units[1]}",
                     format_time(stage.predicted.compute_s),
                     format_time(stage.predicted.send_s) if stage.predicted.send_s else "", memory,
                     f"{stage.first_op} \u2026 {stage.last_op}"))  # fmt: skip
    return table(("stage", "host", "units", "compute", "send", "memory", "operators"), rows)


def _measured(record: RunRecord) -> list[tuple[str, float | None, float | None]]:
    """Milliseconds a microbatch, stages and links in the order in which the data passes them."""
    links = {link.boundary: link for link in record.links}
    found: list[tuple[str, float | None, float | None]] = []
    for number in range(len(record.stages) + 1):
        if number in links:
            link = links[number]
            measured = link.transfer_s * 1e3 if link.transfer_s is not None else None
            predicted = link.predicted_s * 1e3 if link.predicted_s is not None else None
            found.append((f"{link.source} \u2192 {link.destination}", measured, predicted))
        if number < len(record.stages):
            stage = record.stages[number]
            found.append((f"stage {stage.stage} on {stage.host}", stage.compute_s * 1e3, stage.predicted_s * 1e3))
    return found


def _over_time(record: RunRecord) -> str:
    text = (f"{record.num_items} items in {record.elapsed_s:.3g} s, begun {record.began}; the dashed line is the "
            "prediction.")  # fmt: skip
    if record.pauses_s:
        longest = max(record.pauses_s)
        text += f" {len(record.pauses_s)} recoveries, the longest pause {longest:.2f} s."
    return text
