"""Builds the record of a run for run.json and `--json`."""

from __future__ import annotations

import itertools
from pathlib import Path

from edgecompile.contract.dim_rules import item_dims
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import replacing
from edgecompile.contract.files.user_files import check_ours
from edgecompile.contract.plan import Plan
from edgecompile.contract.run_record import (
    RECORD_VERSION,
    LinkRecord,
    Positions,
    Rates,
    RunRecord,
    StageRecord,
    TextRecord,
    run_text,
)
from edgelaunch.control.supervisor import Run
from edgelaunch.process.stderr import say_last
from edgelaunch.report.run_report import bottleneck, rates, transfer_s

__all__ = ["check_record", "keep_record", "record_of", "write_record"]


def record_of(plan: Plan, run: Run, plan_sha256: str, began: str, text: TextRecord | None = None) -> RunRecord:
    """`plan`: as it ran last. `began`: UTC, ISO 8601. `text`: of the requests of a run that generated some."""
    collector = run.collector
    measured = rates(plan, run)
    return RunRecord(
        version=RECORD_VERSION,
        plan_sha256=plan_sha256,
        model=plan.model.name,
        microbatch=plan.model.microbatch,
        began=began,
        num_items=collector.num_items,
        elapsed_s=measured.elapsed_s,
        throughput_items_per_s=measured.overall,
        steady_items_per_s=measured.steady,
        predicted_items_per_s=plan.predicted.throughput_items_per_s,
        bottleneck=bottleneck(plan, run),
        predicted_bottleneck=plan.predicted.bottleneck,
        latency=collector.latencies.summary() if collector.latencies.count else None,
        stages=tuple(_stages(plan, run)),
        links=tuple(_links(plan, run)),
        pauses_s=tuple(run.pauses_s),
        rates=Rates(step_s=collector.rates.step_ns / 1e9, items=tuple(collector.rates.counts())),
        positions=Positions(useful=run.feeder.useful, computed=run.feeder.computed) if item_dims(plan) else None,
        text=text,
    )


def keep_record(record: RunRecord, path: Path, *, named: bool) -> None:
    """Writes the record; where it cannot be written, only says so: what the run gave is there.

    Args:
        named: by the user, who was asked before the run about what is there.
    """
    try:
        if not named:
            check_record(path)
        write_record(record, path)
    except UserError as error:
        say_last(str(error), event="no_record")


def _stages(plan: Plan, run: Run) -> list[StageRecord]:
    found = []
    for stage in plan.stages:
        summary = run.ranks[stage.rank]
        spent = summary.stage
        found.append(StageRecord(
            stage=stage.stage, rank=stage.rank, host=plan.hosts[stage.rank].name, machine=summary.machine,
            units=stage.units, microbatches=spent.compute.count,
            compute_s=spent.compute.median_s, predicted_s=stage.predicted.compute_s,
            wait_input_s=spent.wait_input.mean_s, wait_output_s=spent.wait_output.mean_s,
            pack_s=spent.pack.mean_s, busy=spent.share(spent.compute), trace=spent.trace,
        ))  # fmt: skip
    return found


def _links(plan: Plan, run: Run) -> list[LinkRecord]:
    found = []
    ranks = plan.way
    for boundary, (source, destination) in enumerate(itertools.pairwise(ranks)):
        if source == destination:
            continue
        received = run.ranks[destination].receive.get(boundary)
        found.append(LinkRecord(
            boundary=boundary, source=plan.hosts[source].name, destination=plan.hosts[destination].name,
            transfer_s=transfer_s(run, boundary), num_bytes=received.num_bytes if received is not None else 0,
            predicted_s=plan.stages[boundary - 1].predicted.send_s if boundary else None,
        ))  # fmt: skip
    return found


def check_record(path: Path) -> None:
    """Raises UserError where a file that is not a record of a run has the name that a record gets by itself."""
    check_ours(path, r'\A\{"version": .*"plan_sha256": ', "record of a run", "name a file with --run")


def write_record(record: RunRecord, path: Path) -> None:
    """Whole or not at all. Raises UserError where it cannot be written."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(run_text(record), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: the run's record cannot be written: {error.strerror}") from None
