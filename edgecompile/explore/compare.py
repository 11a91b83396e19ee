"""`edgeplan compare`: plans side by side, one a row, for people, scripts and spreadsheets."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.contract.quantities import format_bytes, format_items_rate, format_time
from edgecompile.explore.proof import distance
from edgecompile.terminal.console import table_console

__all__ = ["add_options", "compared", "plan_row", "run", "short_names"]

_COLUMNS = (
    "plan",
    "model",
    "scheduler",
    "stages",
    "throughput",
    "",
    "latency",
    "period",
    "bottleneck",
    "memory",
    "sent",
)
_LEFT = ("plan", "model", "scheduler", "bottleneck")
_MOST_LINKS = 3
"""That a row of the table names one by one."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", nargs="+", metavar="PLAN", help="a plan.yaml, of any model and cluster")
    parser.add_argument("--csv", action="store_true", help="comma-separated values: seconds, bytes, items a second")


def run(chosen: argparse.Namespace) -> int:
    """The command's body."""
    if chosen.csv and chosen.json:
        raise UserError("--csv and --json are two forms of the same: choose one")
    rows = compared(chosen.plan)
    if chosen.json:
        print(json.dumps({"plans": rows}, indent=1))
    elif chosen.csv:
        _write_csv(rows)
    else:
        _print(rows, quiet=chosen.quiet)
    return 0


def compared(paths: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each plan, in the order given.

    Raises:
        UserError: one of them is missing, no plan, or of a version that is not known here; says which.
    """
    plans = [read_plan(path) for path in paths]
    best = max(plan.predicted.throughput_items_per_s for plan in plans)
    return [
        {"plan": path, **plan_row(plan), "of_best": plan.predicted.throughput_items_per_s / best}
        for path, plan in zip(paths, plans, strict=True)
    ]


def plan_row(plan: Plan) -> dict[str, Any]:
    """What is compared: seconds, bytes, items a second; of a message that is sent, on average over the workload."""
    links = _links(plan)
    return {
        "version": plan.version,
        "model": plan.model.name,
        "microbatch": plan.model.microbatch,
        "scheduler": plan.scheduling.method,
        "objective": plan.objective,
        "wire": ",".join(plan.scheduling.per_cut) or plan.scheduling.wire,
        "precision": "+".join(sorted({stage.precision for stage in plan.stages})),
        "stages": len(plan.stages),
        "hosts": [plan.hosts[stage.rank].name for stage in plan.stages],
        "throughput_items_per_s": plan.predicted.throughput_items_per_s,
        "latency_s": plan.predicted.latency_s,
        "period_s": plan.predicted.period_s,
        "gap": plan.certificate.gap,
        "proved": distance(plan.certificate),
        "bottleneck": plan.predicted.bottleneck,
        "most_memory_bytes": max(stage.predicted.memory_bytes for stage in plan.stages),
        "memory_bytes": sum(stage.predicted.memory_bytes for stage in plan.stages),
        "sent_bytes": sum(size for _, size in links),
        "links": [{"link": name, "bytes": size} for name, size in links],
    }


def _links(plan: Plan) -> list[tuple[str, int]]:
    """Each link that a message takes, with its bytes: inputs and results of the data host included."""
    ranks = plan.way
    sizes = [plan.boundaries[0].wire_bytes["fp32"], *(plan.sent_bytes(stage) for stage in plan.stages)]
    return [
        (f"{plan.hosts[source].name} -> {plan.hosts[destination].name}", size)
        for source, destination, size in zip(ranks, ranks[1:], sizes, strict=False)
        if source != destination
    ]


def short_names(paths: Sequence[str]) -> list[str]:
    """Without what all paths begin with, and without plan.yaml where all end so."""
    parts = [path.split(os.sep) for path in paths]
    if len(parts) > 1:
        first = 0
        while all(len(own) > first + 1 and own[first] == parts[0][first] for own in parts):
            first += 1
        parts = [own[first:] for own in parts]
        if all(len(own) > 1 and own[-1] == "plan.yaml" for own in parts):
            parts = [own[:-1] for own in parts]
    return [os.sep.join(own) for own in parts]


def _write_csv(rows: Sequence[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        links = "; ".join(f"{item['link']} {item['bytes']}" for item in row["links"])
        writer.writerow({**row, "hosts": " ".join(row["hosts"]), "links": links}.values())


def _print(rows: Sequence[dict[str, Any]], *, quiet: bool) -> None:
    console = table_console()
    models = list(dict.fromkeys(f"{row['model']}, microbatch {row['microbatch']}" for row in rows))
    alike = len(models) == 1
    table = Table(title=f"plans of {models[0]}" if alike else "plans", title_justify="left")
    for name in _COLUMNS:
        if name != "model" or not alike:
            wraps = name in ("model", "bottleneck", "sent", "plan")
            table.add_column(name, justify="left" if name in _LEFT else "right", overflow="fold", no_wrap=not wraps)
    for name, row in zip(short_names([row["plan"] for row in rows]), rows, strict=True):
        model, best = f"{row['model']}, {row['microbatch']}", row["of_best"] == 1
        figures = (
            str(row["stages"]), format_items_rate(row["throughput_items_per_s"]), f"{row['of_best'] - 1:+.1%}",
            format_time(row["latency_s"]), format_time(row["period_s"]), row["bottleneck"],
            format_bytes(row["most_memory_bytes"]), _sent(row),
        )  # fmt: skip
        cells = [name, *(() if alike else (model,)), row["scheduler"], *figures]
        table.add_row(*map(Text, cells), style="bold" if best and len(rows) > 1 else None)
    console.print(table)
    if quiet:
        return
    console.print("memory: of the stage that needs most; sent: of a message, the inputs and results included")


def _sent(row: dict[str, Any]) -> str:
    sizes = [item["bytes"] for item in row["links"]]
    if not sizes:
        return "-"
    if len(sizes) > _MOST_LINKS:
        return f"{len(sizes)} of {format_bytes(min(sizes))} to {format_bytes(max(sizes))}"
    return ", ".join(map(format_bytes, sizes))
