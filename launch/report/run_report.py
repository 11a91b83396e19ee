"""Prints what a run measured beside what the plan predicted."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompile.contract.dim_rules import item_dims
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_count, format_items_rate, format_number, format_time
from edgelaunch.control.supervisor import Run
from edgelaunch.outputs.golden_comparison import Comparison

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Measured", "bottleneck", "console", "print_report", "print_verified", "rates", "transfer_s"]

PLAIN_WIDTH = 120
BUSY = 0.85
"""A part that is busy for this share of the period bounds it."""


FEW = 4
"""With fewer results than this between the first and the last there is no steady state."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Items a second."""

    elapsed_s: float
    """From the first item's feeding to the last result."""
    overall: float
    steady: float | None
    """None where too few results came."""


def console() -> Console:
    from rich.console import Console  # after the run: it takes 50 ms of the start

    plain = not sys.stdout.isatty()
    return Console(width=PLAIN_WIDTH if plain else None, highlight=False, soft_wrap=plain)


def print_verified(
    what: str, outputs: Mapping[str, Comparison], quiet: bool, rounding: str, times: float = 1.0
) -> None:
    """A table of the outputs, and a line that says no more than was found.

    Args:
        rounding: Plan.rounding.
        times: how often the plan's tolerance was allowed.
    """
    if not quiet:
        rows = [
            (name, f"{item.max_value:.4g}", f"{item.max_difference:.3g}", f"{item.tolerance:.3g}")
            for name, item in outputs.items()
        ]
        _print_table(f"{what}: pipeline against the model",
                     ("output", "largest value", "largest difference", "allowed"), rows)  # fmt: skip
    console().print(_verdict(outputs, rounding, times), markup=False)


def _verdict(outputs: Mapping[str, Comparison], rounding: str, times: float) -> str:
    compared = {name: item for name, item in outputs.items() if item.num_items}
    left_out = ", ".join(name for name in outputs if name not in compared)
    why_not = f"not compared, since rounding may turn a close decision: {left_out}"
    if not compared:
        return why_not
    num_items = max(item.num_items for item in compared.values())
    name, worst = max(compared.items(), key=lambda pair: pair[1].max_difference)
    largest = f"largest difference {worst.max_difference:.3g}"
    if not rounding:
        return f"verified: {num_items} items equal the unsplit model's ({largest})"
    allowed = f"the plan's tolerance of {worst.tolerance / times:.3g}"
    if times != 1.0:
        allowed = f"{times:g} times {allowed}"
    of = f" for {name}" if len(compared) > 1 else ""
    said = f"verified: {num_items} items within {allowed}{of} ({largest}; {rounding})"
    return f"{said}; {why_not}" if left_out else said


def print_report(plan: Plan, run: Run, *, items: str = "items") -> None:
    """The table of stages, the throughput, and what bounded it. `items`: what a message has."""
    rows = []
    for stage in plan.stages:
        spent, on_wire_s = run.ranks[stage.rank].stage, transfer_s(run, stage.stage + 1)
        rows.append((
            str(stage.stage), plan.hosts[stage.rank].name,
            _ms(spent.compute.median_s), _ms(stage.predicted.compute_s),
            _ms(on_wire_s) if on_wire_s is not None else "local", _ms(stage.predicted.send_s),
            _ms(spent.wait_input.mean_s), _ms(spent.wait_output.mean_s), f"{spent.share(spent.compute):.1%}",
        ))  # fmt: skip
    columns = ("stage", "host", "compute", "predicted", "transfer", "predicted", "wait in", "wait out", "busy")
    _print_table(f"{plan.model.name}, microbatch {plan.model.microbatch}: ms per microbatch", columns, rows)
    out = console()
    out.print(_throughput(plan, run, items))
    if item_dims(plan):
        out.print(_positions(plan, run))
    if run.collector.latencies.count and items == "items":
        out.print(latency_line(run))
    out.print(f"bottleneck: {bottleneck(plan, run)}; predicted: {plan.predicted.bottleneck}")


def latency_line(run: Run) -> str:
    """Percentiles of the time from when an item was due, or was fed where nothing said when, to its result."""
    latency = run.collector.latencies.summary()
    parts = (("p50", latency.p50_s), ("p95", latency.p95_s), ("p99", latency.p99_s), ("max", latency.max_s))
    shown = ", ".join(f"{name} {_ms(seconds)} ms" for name, seconds in parts)
    return f"latency of {latency.count} items, from due or fed to result: {shown}"


def transfer_s(run: Run, boundary: int) -> float | None:
    """Seconds that one message took on the wire; None where no wire is crossed.

    The receiver sees its pieces come in, whether or not the sender had to wait before. A message of one piece shows
    nothing there: then the quickest send, which had not to wait.
    """
    received = next((part.receive[boundary] for part in run.ranks.values() if boundary in part.receive), None)
    if received is None:
        return None
    if received.share_timed > 0:
        return received.busy.median_s / received.share_timed
    sent = next((part.send[boundary] for part in run.ranks.values() if boundary in part.send), None)
    return None if sent is None else sent.busy.least_s  # none: its sender was lost after the last result


def _print_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on a terminal; elsewhere columns of plain text, for logs."""
    out = console()
    if not out.is_terminal:
        widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
        out.print(title, markup=False)
        for row in (columns, *rows):
            out.print(
                "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), markup=False
            )
        return
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def rates(plan: Plan, run: Run) -> Measured:
    """Over the whole run, and in steady state."""
    collector = run.collector
    elapsed_s = max(0.0, (collector.last_ns - run.feeder.begin_ns) / 1e9)
    num_items: float = plan.model.microbatch
    if plan.model.dims and collector.busy.count:
        num_items = collector.num_items / collector.busy.count
    steady = num_items / max(_steady_period_s(run), 1e-9) if collector.arrivals.count >= FEW else None
    overall = collector.num_items / elapsed_s if elapsed_s > 0 else 0.0
    return Measured(elapsed_s=elapsed_s, overall=overall, steady=steady)


def _throughput(plan: Plan, run: Run, items: str) -> str:
    measured = rates(plan, run)
    text = f"{format_count(run.collector.num_items)} {items} in {format_time(measured.elapsed_s)}: "
    text += f"{format_items_rate(measured.overall, 4, items)} overall"
    if measured.steady is not None:
        text += f", {format_items_rate(measured.steady, 4, items)} in steady state"
    return text + f" (predicted {format_number(plan.predicted.throughput_items_per_s, 4)})"


def _positions(plan: Plan, run: Run) -> str:
    """How much of what was computed is the items' own, where items vary in size."""
    useful, computed = run.feeder.useful, run.feeder.computed
    rate = useful / max(rates(plan, run).elapsed_s, 1e-9)
    share_useful = useful / computed if computed else 1.0
    return (f"{format_count(useful)} positions of items, {format_number(rate, 4)} a second: {share_useful:.1%} of what "
            f"was computed, the rest is padding")  # fmt: skip


def _steady_period_s(run: Run) -> float:
    """Mean time between two results, without the first ones, before which the pipeline fills."""
    return run.collector.arrivals.summary().mean_s


def bottleneck(plan: Plan, run: Run) -> str:
    """The part that was busy all the time, in words.

    A stage by its compute time; the input and the output by theirs; a link where the side before it waits to get rid of
    its results and the side after it waits for them.
    """
    names = [host.name for host in plan.hosts]
    spent = [run.ranks[stage.rank].stage for stage in plan.stages]
    stages = {f"stage {stage.stage} on {names[stage.rank]}": each.share(each.compute)
              for stage, each in zip(plan.stages, spent, strict=True)}  # fmt: skip
    name, most = max(stages.items(), key=lambda item: item[1])
    if most >= BUSY:
        return f"{name} ({most:.0%} busy)"
    period_s = max(_steady_period_s(run), 1e-9)
    feeding = min(1.0, run.feeder.busy.summary().mean_s / period_s)
    writing = min(1.0, run.collector.busy.summary().mean_s / period_s)
    others = {"the input": feeding, "the output": writing}
    ranks = plan.way
    before = [1 - feeding, *(each.share(each.wait_output) for each in spent)]
    after = [*(each.share(each.wait_input) for each in spent), 1 - writing]
    for index, (source, destination) in enumerate(itertools.pairwise(ranks)):
        if source != destination:
            others[f"link {names[source]} -> {names[destination]}"] = min(before[index], after[index])
    other, other_share = max(others.items(), key=lambda item: item[1])
    return f"{other} ({other_share:.0%} busy)" if other_share > most else f"{name} ({most:.0%} busy)"


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1e3
    return f"{milliseconds:.2f}" if not 0 < milliseconds < 0.1 else format_number(milliseconds, 2)
