"""`edgeplan explain`: the bottleneck, what a change would gain, and why a unit is placed where it is."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.contract.quantities import format_bytes, format_flops, format_items_rate, format_number, format_time
from edgecompile.explore.bottleneck import Load, Shift, certificate_in_words, ideal_period_s, loads, shifts
from edgecompile.explore.microbatch import MicrobatchRoom, microbatch_room
from edgecompile.explore.prices import Price, changes_of, price_of, wire_changes
from edgecompile.explore.show import perplexity_line
from edgecompile.explore.why import Placement, find_units, placement_of
from edgecompile.planning.from_plan import as_planned, bottleneck_name, planned_again
from edgecompile.planning.problem import Schedule
from edgecompile.terminal.console import steps, table_console

__all__ = ["Explanation", "add_options", "explain", "run"]

MOST_LOADS = 8


@dataclass(frozen=True, kw_only=True)
class Explanation:
    bottleneck: str
    loads: tuple[Load, ...]
    """The longest first."""
    shifts: tuple[Shift, ...]
    ideal_period_s: float
    """If work could be divided at will and sending took no time."""
    certificate: str
    best: Schedule
    """Of these hosts as they are; the plan's own unless its stages were given."""
    prices: tuple[Price, ...]
    wires: tuple[Price, ...]
    microbatch: MicrobatchRoom


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="a plan.yaml")
    what = "why this unit, module (vit.layers.5.mlp.fc1) or range (3-7) runs where it does"
    parser.add_argument("--unit", metavar="NAME", help=what)


def run(chosen: argparse.Namespace) -> int:
    """The command's body."""
    plan = read_plan(chosen.plan)
    quiet = chosen.json or chosen.quiet
    if chosen.unit is not None:
        units = find_units(plan, chosen.unit)
        with nullcontext() if quiet else steps(f"plan again with these units on each of {len(plan.cluster)} hosts"):
            placement = placement_of(plan, units)
        figures: dict[str, Any] = asdict(placement)
        parts: Iterator[Table | Text | str] = placement_tables(plan, placement)
    else:
        with nullcontext() if quiet else steps("plan again with every change"):
            explanation = explain(plan)
        figures = as_json(plan, explanation)
        parts = tables(plan, explanation)
    if chosen.json:
        print(json.dumps(figures, indent=1))
        return 0
    console = table_console()
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))  # a command stays in one piece
    return 0


def explain(plan: Plan) -> Explanation:
    """Solves the plan's problem once for every change.

    Raises:
        Infeasible: no plan fits the hosts as they are.
    """
    problem, own = as_planned(plan)
    _, best = planned_again(plan)
    return Explanation(
        bottleneck=bottleneck_name(own, plan.cluster),
        loads=tuple(loads(problem, own)),
        shifts=tuple(shifts(plan, problem, own)),
        ideal_period_s=ideal_period_s(problem),
        certificate=certificate_in_words(plan, best),
        best=best,
        prices=tuple(price_of(plan, best, change) for change in changes_of(plan)),
        wires=tuple(price_of(plan, best, change) for change in wire_changes(plan)),
        microbatch=microbatch_room(plan, problem, own),
    )


def as_json(plan: Plan, found: Explanation) -> dict[str, Any]:
    best = found.best
    return {
        "plan": asdict(plan.predicted),
        "best": {
            "throughput_items_per_s": plan.items_per_message / best.period_s,
            "period_s": best.period_s,
            "latency_s": best.latency_s,
            "hosts": [plan.cluster[stage.host] for stage in best.stages],
        },
        "bottleneck": found.bottleneck,
        "loads": [asdict(load) for load in found.loads],
        "shifts": [asdict(shift) for shift in found.shifts],
        "ideal_period_s": found.ideal_period_s,
        "certificate": found.certificate,
        "prices": [asdict(price) for price in found.prices],
        "wires": [asdict(price) for price in found.wires],
        "microbatch": asdict(found.microbatch),
    }


def tables(plan: Plan, found: Explanation) -> Iterator[Table | Text | str]:
    """In the order in which a reader asks: what holds it back, is that proved, what would help."""
    predicted = plan.predicted
    yield (
        f"{plan.model.name}: {format_items_rate(predicted.throughput_items_per_s)}, "
        f"period {format_time(predicted.period_s)} set by {found.bottleneck}"
    )
    yield _loads(found, predicted.period_s)
    for shift in found.shifts:
        outcome = "does not fit in memory" if shift.period_s is None else f"period {format_time(shift.period_s)}"
        yield f"with {shift.what}: {outcome}"
    yield (
        f"if work could be divided at will and sending took no time, these hosts would need "
        f"{format_time(found.ideal_period_s)} a microbatch: the plan reaches "
        f"{min(1.0, found.ideal_period_s / predicted.period_s):.0%} of that speed"
    )
    yield found.certificate
    yield _prices(plan, found)
    no_gain = [price for price in found.prices if price.kind != "loss" and price.gain is not None and price.gain <= 0]
    if no_gain:
        yield f"no faster plan with: {'; '.join(price.what for price in no_gain)}"
    yield _wires(plan, found)
    yield from _microbatch(plan, found.microbatch)
    if plan.generation is not None and plan.generation.perplexity is not None:
        yield perplexity_line(plan.generation.perplexity)


def _loads(found: Explanation, period_s: float) -> Table:
    table = Table(title="what a microbatch occupies, longest first", title_justify="left")
    for name in ("", "time", "of the period"):
        table.add_column(name, justify="right" if name else "left")
    for load in found.loads[:MOST_LOADS]:
        table.add_row(load.what, format_time(load.time_s), f"{load.time_s / period_s:.1%}")
    if len(found.loads) > MOST_LOADS:
        table.add_row(f"and {len(found.loads) - MOST_LOADS} shorter ones", "", "")
    return table


def _prices(plan: Plan, found: Explanation) -> Table:
    best_items_per_s = plan.items_per_message / found.best.period_s
    title = f"what a change would bring, planned again (now {format_items_rate(best_items_per_s, 4)}"
    given = plan.scheduling.method != "exact"
    table = Table(title=f"{title}, with the best stages)" if given else f"{title})", title_justify="left")
    for name in ("", "items/s", "gain", "latency", "hosts", "same stages"):
        table.add_column(name, justify="right" if name else "left")
    gains = [price for price in found.prices if price.kind != "loss" and (price.gain is None or price.gain > 0)]
    losses = [price for price in found.prices if price.kind == "loss"]
    for price in sorted(gains, key=lambda item: -(item.gain or 0.0)):
        table.add_row(*_row(price))
    if gains and losses:
        table.add_section()
    for price in sorted(losses, key=lambda item: item.gain if item.gain is not None else -1.0):
        table.add_row(*_row(price))
    return table


def _row(price: Price) -> Sequence[str]:
    same = "" if price.same_stages_items_per_s is None else format_number(price.same_stages_items_per_s, 4)
    if price.throughput_items_per_s is None or price.gain is None or price.latency_s is None:
        return (f"{price.what}\n{price.why_not}", "none", "", "", "", same)
    least = "" if price.proved else "at least "
    return (
        price.what,
        f"{least}{format_number(price.throughput_items_per_s, 4)}",
        f"{price.gain:+.1%}",
        format_time(price.latency_s),
        str(price.num_hosts),
        same,
    )


def _wires(plan: Plan, found: Explanation) -> Table:
    table = Table(
        title="wire formats, planned again; only a compilation shows their effect on the results", title_justify="left"
    )
    for name in ("", "items/s", "gain", "latency", "hosts", "same stages"):
        table.add_column(name, justify="right" if name else "left")
    for price in sorted(found.wires, key=lambda item: -(item.gain or 0.0)):
        what, *figures = _row(price)
        mine = price.target == plan.scheduling.wire and not plan.scheduling.per_cut
        table.add_row(f"{what} (this plan's)" if mine else what, *figures)
    return table


def _microbatch(plan: Plan, room: MicrobatchRoom) -> Iterator[Text | str]:
    now = plan.model.microbatch
    words = ["(this plan's overrides)"]
    if plan.provenance is not None:
        words = [shlex.quote(word) for word in plan.provenance.overrides if not word.startswith("microbatch=")]
    again = " ".join(["edgecompile -m", *words])
    yield Text(  # brackets are not markup
        f"The plan has times for microbatch {now} only. A sweep shows which microbatch is best: "
        f"{again} microbatch={','.join(str(size) for size in room.sizes)}"
    )
    yield (
        f"From this plan alone: launching operators takes {room.launch_share:.0%} of the time of {room.stage}, "
        f"which a larger microbatch spreads over more items; the buffers and activations of these stages fit in "
        f"memory up to about microbatch {room.largest:,} ({room.tightest} is full first)"
    )


def placement_tables(plan: Plan, found: Placement) -> Iterator[Table | str]:
    first, last = found.units
    what = f"unit {first}, {found.first_op}" if first == last else (
        f"units {first}-{last}, {found.first_op} to {found.last_op}"
    )  # fmt: skip
    yield (
        f"{what}: {format_flops(found.flops, 'FLOP')} and {format_bytes(found.weight_bytes)} of weights, "
        f"on {' and '.join(found.hosts)}"
    )
    if found.best_hosts != found.hosts:
        yield (
            f"these stages were given (schedule={plan.scheduling.method}); the best plan puts it on "
            f"{' and '.join(found.best_hosts)}"
        )
    table = Table(title="the best plan with it on", title_justify="left")
    for name in ("host", "it takes", "items/s", "gain", "latency", ""):
        table.add_column(name, justify="left" if name in ("host", "") else "right", overflow="fold")
    for place in sorted(found.elsewhere, key=lambda item: -(item.gain if item.gain is not None else -2.0)):
        figures = ("none", "", "")
        if place.throughput_items_per_s is not None and place.gain is not None and place.latency_s is not None:
            figures = (
                format_number(place.throughput_items_per_s, 4),
                f"{place.gain:+.1%}",
                format_time(place.latency_s),
            )
        table.add_row(place.host, format_time(place.units_s), *figures, place.verdict)
    yield table
