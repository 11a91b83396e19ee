"""The data host's part of a command: opens the input, handles the results, prints the summary."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.files.user_files import printable
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_count, format_items_rate
from edgecompile.contract.run_record import RunRecord, run_values
from edgelaunch.common.items import DEFAULT_ITEMS, OnBadItem, Source
from edgelaunch.control.supervisor import Run, Supervisor
from edgelaunch.inputs.bad_items import BadItems
from edgelaunch.inputs.open_input import open_source
from edgelaunch.outputs.golden import GoldenFile, chain
from edgelaunch.outputs.golden_comparison import Verifier
from edgelaunch.outputs.partial_results import origin_of
from edgelaunch.outputs.reference_comparison import Reference
from edgelaunch.outputs.result_files import open_writer
from edgelaunch.outputs.results import ResultHandler
from edgelaunch.pipeline.feed import StreamEnds
from edgelaunch.pipeline.result_counters import Ends
from edgelaunch.process.stderr import say
from edgelaunch.report.progress import Meter
from edgelaunch.report.run_file import keep_record, record_of
from edgelaunch.report.run_report import console, print_report, print_verified
from edgelaunch.request.run_request import RunRequest

__all__ = ["Session"]

RECORD = "run.json"


class Session:
    def __init__(self, request: RunRequest, plan: Plan, folder: Path) -> None:
        """Raises UserError where the input, output or golden file is invalid."""
        if request.prompt is not None or request.chat:
            option = "--prompt" if request.prompt is not None else "--chat"
            raise UserError(f"{option} is for plans that generate text: this one's model has results of items")
        self._request, self._plan = request, plan
        self._record = request.run if request.run is not None else folder / RECORD
        self._began = datetime.now(timezone.utc).isoformat(timespec="seconds")
        streams = not request.verify or any((request.input, request.items, request.output))
        self._bad = BadItems(plan, gap=request.on_bad_item is OnBadItem.GAP, quiet=request.quiet)
        opened = None
        if request.input is not None:
            opened = open_source(plan, folder, request.input, request.items, self._bad, request.repeat or 1)
        golden = GoldenFile(plan, folder) if request.verify or opened is None else None
        if streams and opened is None:
            assert golden is not None
            opened = golden.synthetic(request.items or DEFAULT_ITEMS)
        self._opened = opened
        self._verifier = Verifier(plan, golden) if request.verify and golden is not None else None
        compared = self._verifier is not None and opened is not None and plan.golden.reference is not None
        self._reference = Reference(plan, folder, golden) if compared and golden is not None else None
        writer = None
        self._num_earlier = 0
        if request.output is not None:
            writer = open_writer(plan, request.output, origin_of(plan, request), resume=request.resume)
            self._skip(writer.next_index)
        self.source = self._whole(golden)
        self.meter = Meter(self.source.num_items, request.quiet)
        show = (lambda line: None) if request.quiet or request.json else _show
        self.results = ResultHandler(plan, self._verifier, self._reference, writer, self.meter.advance, show)

    def _whole(self, golden: GoldenFile | None) -> Source:
        if self._verifier is None or golden is None:
            assert self._opened is not None
            return self._opened
        count = self._plan.golden.num_items
        known: int | None = count
        if self._opened is not None:
            known = None if self._opened.num_items is None else count + self._opened.num_items
        items = chain(golden, self._opened)
        if self._reference is not None:
            items = self._reference.watch(items)
        return Source(items=items, num_items=known, what="golden items")

    def _skip(self, count: int) -> None:
        """Leaves out the first items, whose results an earlier run has written."""
        if not count or self._opened is None:
            return
        opened = self._opened
        known = None if opened.num_items is None else max(0, opened.num_items - count)
        self._opened = replace(opened, items=islice(opened.items, count, None), num_items=known)
        self._num_earlier = count
        if not self._request.quiet:
            say(f"resuming after item {count:,}", event="resumed", num_items=count)

    def ends(self, plan: Plan) -> Ends:
        return StreamEnds(plan, self.source, self.results)

    def look_at(self, runner: Supervisor) -> None:
        """Whose ranks are shown."""
        self.meter.look_at(runner)

    def discard(self) -> None:
        self.meter.stop()
        self.results.discard()

    def tell_interrupted(self, rank: Supervisor) -> None:
        """What was done by the time that Ctrl-C came."""
        self.meter.stop()
        if rank.run is None or not rank.run.collector.num_items or self._request.json:
            return
        ends = rank.run.collector
        seconds = max((ends.last_ns - ends.first_ns) / 1e9, 1e-9)
        several = ends.num_items > self._plan.model.microbatch
        rate = f", {format_items_rate(ends.num_items / seconds)} since the first" if several else ""
        console().print(f"stopped after {format_count(ends.num_items)} items{rate}", soft_wrap=True)

    def report(self, rank: Supervisor) -> None:
        """Prints what happened to the items, then the throughput; keeps the run's record."""
        self.meter.stop()
        if rank.run is not None:
            self._keep(rank.run)
        if self._request.json:
            return
        out = console()
        if self._verifier is not None:
            print_verified("golden items", self._verifier.outputs, self._request.quiet, self._plan.rounding)
        if self._reference is not None:
            again = self._reference
            print_verified("every item, computed again", again.outputs, self._request.quiet, self._plan.rounding,
                           again.slack)  # fmt: skip
        if self._bad.num_items:
            several = "s" if self._bad.num_items > 1 else ""
            out.print(f"{self._bad.num_items} item{several} could not be read and left a gap{several and ' each'}")
        if self._bad.num_empty_lines:
            several = "s" if self._bad.num_empty_lines > 1 else ""
            out.print(f"{self._bad.num_empty_lines} empty line{several} skipped: they have no result")
        accuracy = self.results.accuracy
        if accuracy.num_items:
            share = accuracy.num_correct / accuracy.num_items
            out.print(f"accuracy: {share:.2%} ({accuracy.num_correct} of {accuracy.num_items}), "
                      f"Matthews correlation {accuracy.matthews():.4f}")  # fmt: skip
        if self._request.output is not None:
            earlier = f", {self._num_earlier} of them of an earlier run" if self._num_earlier else ""
            total = self.results.num_items + self._num_earlier
            out.print(f"{total} results in {printable(str(self._request.output))}{earlier}", markup=False)
        if not self._request.quiet and rank.run is not None:
            print_report(rank.run.plan, rank.run)

    def _keep(self, run: Run) -> None:
        record = record_of(run.plan, run, file_sha256(self._request.plan_path), self._began)
        keep_record(record, self._record, named=self._request.run is not None)
        if self._request.json:
            print(json.dumps(self._as_json(record)), flush=True)

    def _as_json(self, record: RunRecord) -> dict[str, Any]:
        """The record without its traces, and the counts of items."""
        values = run_values(record)
        for stage in values["stages"]:
            del stage["trace"]
        judges = [judge for judge in (self._verifier, self._reference) if judge is not None]
        compared = [item for judge in judges for item in judge.outputs.values()]
        accuracy = self.results.accuracy
        return values | {
            "output": None if self._request.output is None else printable(str(self._request.output)),
            "num_earlier": self._num_earlier,
            "num_gaps": self._bad.num_items,
            "num_empty_lines": self._bad.num_empty_lines,
            "largest_difference": max((item.max_difference for item in compared), default=None),
            "accuracy": accuracy.num_correct / accuracy.num_items if accuracy.num_items else None,
        }


def _show(line: str) -> None:
    """At once: the first result is what a user waits for. Who stopped reading is found out at the report."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)
