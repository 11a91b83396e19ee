"""`edgeplan report`: writes one self-contained HTML file about a plan, and optionally a run and a sweep.

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

from edgecompile.contract.dim_rules import item_dims
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.files.user_files import check_ours, check_regular, read_text
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import files_of_plan, read_plan
from edgecompile.contract.quantities import format_bytes, format_count, format_items_rate, format_time
from edgecompile.contract.run_record import RunRecord, TextRecord, read_run
from edgecompile.drawing.charts import bars, curve, rates_over_time
from edgecompile.drawing.cluster_graph import graph_of_plan, graph_of_run
from edgecompile.drawing.graph_svg import draw_graph
from edgecompile.drawing.style import STYLE, table, tiles
from edgecompile.explore.output import check_output, write_output
from edgecompile.explore.proof import proof
from edgecompile.explore.show import workload_line
from edgecompile.explore.timeline.run_timeline import rows_of_run
from edgecompile.explore.timeline.stage_timeline import simulated_rows
from edgecompile.explore.timeline.strips import timeline
from edgecompile.sweep.table import common_overrides

__all__ = ["add_options", "page", "read_sweep", "run"]

DRAWN = 12
"""Microbatches in a timeline."""
MOST_JOBS = 200
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""In a report's first lines, by which it is recognised: such a file may be overwritten."""
MAX_MANIFEST_BYTES = 16 << 20


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", nargs="?", metavar="PLAN", help="a plan.yaml; with --sweep, else its best point's")
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run.json of edgelaunch; without it, the plan alone")
    parser.add_argument("--sweep", metavar="DIR", help="a multirun's folder, with its manifest.json")
    parser.add_argument(
        "--output", metavar="FILE", help="the HTML file (default: report.html beside the plan, or in DIR)"
    )


def run(chosen: argparse.Namespace) -> int:
    """The command's body."""
    if chosen.plan is None and chosen.sweep is None:
        raise UserError("nothing to report on: name a plan.yaml, or --sweep with the folder of an edgecompile -m")
    jobs = read_sweep(Path(chosen.sweep)) if chosen.sweep is not None else []
    plan_path = Path(chosen.plan) if chosen.plan is not None else _best_plan(Path(chosen.sweep), jobs)
    if chosen.run is not None and plan_path is not None:
        check_regular(plan_path, "the plan of a run", "its bytes are read again to compare them: write it to a file")
    plan = read_plan(plan_path) if plan_path is not None else None
    record = read_run(Path(chosen.run)) if chosen.run is not None else None
    if record is not None and plan_path is not None and record.plan_sha256 != file_sha256(plan_path):
        raise UserError(f"{chosen.run}: the record of another plan than {plan_path}: name that plan")
    folder = Path(chosen.plan).parent if chosen.plan is not None else Path(chosen.sweep)
    output = Path(chosen.output) if chosen.output is not None else folder / "report.html"
    read = list(files_of_plan(plan, plan_path)) if plan is not None and plan_path is not None else []
    read += [(Path(chosen.sweep) / job["plan"], "a plan of the sweep") for job in jobs if job["plan"]]
    _check_output(chosen, output, read)
    write_output(output, page(plan, record, jobs))
    if chosen.json:
        print(json.dumps({"report": str(output)}))
    elif not chosen.quiet:
        print(f"report: {output}")
    return 0


def _check_output(chosen: argparse.Namespace, output: Path, read: list[tuple[Path, str]]) -> None:
    """Raises UserError where the report would overwrite what it is made from, or a file of another kind."""
    if chosen.run is not None:
        read.append((Path(chosen.run), "the run"))
    if chosen.sweep is not None:
        read.append((Path(chosen.sweep) / "manifest.json", "the sweep's manifest"))
    check_output(output, "report.html", "--output", read)
    if chosen.output is None:
        check_ours(output, re.escape(POLICY), "report of edgeplan", "name another --output")


def _best_plan(folder: Path, jobs: Sequence[dict[str, Any]]) -> Path | None:
    """Of the sweep's points; None where none has a plan."""
    best = best_job(jobs)
    return folder / best["plan"] if best is not None and best["plan"] else None


def best_job(jobs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The one of highest throughput, the first of equals; None where no point has a plan."""
    done = [job for job in jobs if job["throughput"] is not None]
    return max(done, key=lambda job: job["throughput"], default=None)


def read_sweep(folder: Path) -> list[dict[str, Any]]:
    path = folder / "manifest.json"
    text = read_text(path, what="manifest of a sweep", max_bytes=MAX_MANIFEST_BYTES,
                     hint="name the folder of an edgecompile -m")  # fmt: skip
    try:
        jobs = json.loads(text)["jobs"]
        return [{"job": int(job.get("job", number)), "overrides": [str(word) for word in job["overrides"]],
                 "plan": str(job.get("plan", "")), "error": None if job["error"] is None else str(job["error"]),
                 "throughput": None if job["error"] else float(job["throughput_items_per_s"]),
                 "latency_s": float(job.get("latency_s", 0.0))}
                for number, job in enumerate(jobs)]  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: no manifest of a sweep") from None


def page(plan: Plan | None, record: RunRecord | None, jobs: Sequence[dict[str, Any]]) -> str:
    """The whole document; without a plan, of a sweep that has none."""
    title = "a sweep without a plan"
    if plan is not None:
        title = f"{plan.model.name} on {len({stage.rank for stage in plan.stages})} hosts"
    sections = [*(_plan_sections(plan, record) if plan is not None else ()), *(_sweep_sections(jobs) if jobs else ())]
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _plan_sections(plan: Plan, record: RunRecord | None) -> Iterator[str]:
    yield _summary(plan, record)
    graph, how = (graph_of_plan(plan), "predicted") if record is None else (graph_of_run(plan, record), "measured")
    yield _section("Cluster", f"Which host computes what, and how busy hosts and links are, {how}. The bottleneck has "
                   "a thick frame.", draw_graph(graph))  # fmt: skip
    yield _section("Plan", "Times are of a microbatch.", _plan_table(plan))
    if record is not None:
        yield _section("Measured beside predicted", "What a microbatch takes.",
                       bars(_measured(record)))  # fmt: skip
        if sum(1 for count in record.rates.items if count) > 1:
            yield _section("Throughput over time", _over_time(record),
                           curve(rates_over_time(record.rates.step_s, record.rates.items, record.microbatch),
                                 record.predicted_items_per_s))  # fmt: skip
        if record.text is not None:
            yield _section("Requests", _requests(record.text), _request_table(record.text))
        rows = rows_of_run(record, DRAWN)
        if rows:
            yield _section("Timeline, measured", f"The run's last {DRAWN} microbatches.", timeline(rows))
    yield _section("Timeline, simulated", f"The first {DRAWN} microbatches, as the plan predicts them.",
                   timeline(simulated_rows(plan, DRAWN)))  # fmt: skip


def _sweep_sections(jobs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every point under what was swept, the best one marked."""
    shared, best = common_overrides(jobs), best_job(jobs)
    rated = []
    for job in jobs[:MOST_JOBS]:
        words = " ".join(word for word in job["overrides"] if word not in shared) or "as they are"
        rated.append((f"{words} (the best)" if job is best else words, job["throughput"], None))
    text = "Predicted items a second of each point" + (f" of {' '.join(shared)}" if shared else "") + "."
    if len(jobs) > MOST_JOBS:
        text += f" The first {MOST_JOBS} of {len(jobs)} are drawn."
    if best is not None:
        text += f" The best is job {best['job']}."
    yield _section("Sweep", text, bars(rated, unit="items/s"))
    failed = [(str(job["job"]), " ".join(job["overrides"]), job["error"]) for job in jobs if job["error"] is not None]
    if failed:
        yield _section("Points without a plan", "And why.", table(("job", "overrides", "why"), failed))


def _section(title: str, text: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(text)}</p>\n{content}\n</section>"


def _summary(plan: Plan, record: RunRecord | None) -> str:
    predicted = plan.predicted
    facts = [("predicted", format_items_rate(predicted.throughput_items_per_s)),
             ("predicted latency", format_time(predicted.latency_s)),
             ("microbatch", str(plan.model.microbatch)),
             ("predicted bottleneck", predicted.bottleneck.replace("->", "\u2192"))]  # fmt: skip
    if record is not None:
        measured = record.steady_items_per_s or record.throughput_items_per_s
        error = predicted.throughput_items_per_s / measured - 1 if measured else 0.0
        facts.insert(0, ("measured", format_items_rate(measured)))
        facts.insert(2, ("prediction is off by", f"{error:+.1%}"))
        if record.latency is not None and record.latency.count:
            facts.insert(3, ("measured latency, median", format_time(record.latency.p50_s)))
        if record.bottleneck:
            facts.append(("measured bottleneck", record.bottleneck.replace("->", "\u2192")))
    words = [proof(plan), *([workload_line(plan)] if item_dims(plan) else [])]
    return tiles(facts) + "".join(f"<p>{escape(line[0].upper() + line[1:])}.</p>" for line in words)


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
    text = (f"{format_count(record.num_items)} items in {format_time(record.elapsed_s)}, started {record.began}; "
            "the dashed line is the prediction.")  # fmt: skip
    if record.positions is not None and record.positions.computed:
        useful = record.positions.useful / record.positions.computed
        text += f" {useful:.1%} of the computed positions were the items' own, the rest padding."
    if record.pauses_s:
        longest = max(record.pauses_s)
        text += f" {len(record.pauses_s)} recoveries, the longest pause {longest:.2f} s."
    return text


def _requests(text: TextRecord) -> str:
    said = (f"{format_count(text.requests)} requests for text: {format_count(text.prompt_tokens)} tokens of prompts, "
            f"{format_count(text.tokens)} generated.")  # fmt: skip
    if text.cancelled:
        said += f" {format_count(text.cancelled)} of them were left by those who asked."
    if text.rebuilt:
        said += f" {text.rebuilt} times a lost state was made again, and no token."
    return said


def _request_table(text: TextRecord) -> str:
    """Predictions are of one stream that has the pipeline for itself."""
    rows = [
        (name, *(format_time(seconds) for seconds in (times.p50_s, times.p95_s, times.max_s)), predicted)
        for name, times, predicted in (
            ("first token, from asking", text.first_token, ""),
            ("first token, from its slot", text.first_token_alone, format_time(text.predicted_first_token_s)),
            ("a token", text.token, format_time(text.predicted_token_s)),
        )
        if times.count
    ]
    return table(("time to", "median", "95 of 100", "longest", "predicted, alone"), rows)
