"""`edgeplan simulate`: simulates a plan over time, as it is or with other figures."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.contract.quantities import format_items_rate, format_number, format_time
from edgecompile.explore.changes import change, find_host, without_host
from edgecompile.explore.timeline.simulation import Options, Simulation, simulate
from edgecompile.planning.from_plan import as_planned, bottleneck_name, of_plan, planned_again
from edgecompile.planning.problem import Schedule
from edgecompile.terminal.console import table_console

__all__ = ["Outcome", "add_options", "add_play_options", "play", "run"]

MOST_MICROBATCHES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was simulated, and its results."""

    plan: Plan
    """With the changes."""
    schedule: Schedule
    again: bool
    """Whether the stages were planned again."""
    options: Options
    simulation: Simulation


def add_options(parser: argparse.ArgumentParser) -> None:
    add_play_options(parser, microbatches=1000)


def add_play_options(parser: argparse.ArgumentParser, microbatches: int) -> None:
    """What `play` reads; `microbatches` is the default."""
    parser.add_argument("plan", metavar="PLAN", help="a plan.yaml")
    parser.add_argument("--microbatches", type=int, default=microbatches, metavar="N",
                        help="how many to send (%(default)s)")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="change a figure: hosts.2.bandwidth=50Mbps, hosts.NAME.memory=2GB, hosts.NAME.speed=1.5, "
                        "links.A->B.bandwidth=20Mbps, network.latency=1ms, runtime.num_buffers_in=4")  # fmt: skip
    parser.add_argument("--drop", action="append", default=[], metavar="HOST", help="plan again without this host")
    parser.add_argument("--resolve", action="store_true", help="plan again after --set; else the stages stay")
    parser.add_argument(
        "--rate", type=float, metavar="R", help="items arrive at R per second; default: whenever there is room"
    )
    parser.add_argument("--jitter", type=float, default=1.0, metavar="RATIO",
                        help="95th percentile of compute times over their median, such as 1.2")  # fmt: skip
    parser.add_argument(
        "--warm-up", type=int, default=0, metavar="N", help="the first N microbatches of a stage are slow"
    )
    parser.add_argument("--warm-up-factor", type=float, default=2.0, metavar="F", help="how many times as slow (2)")
    parser.add_argument("--seed", type=int, default=0, help="of the jitter (0)")


def run(chosen: argparse.Namespace) -> int:
    """The command's body."""
    before = read_plan(chosen.plan)
    outcome = play(before, chosen)
    if chosen.json:
        print(json.dumps(as_json(before, outcome), indent=1))
        return 0
    console = table_console()
    for part in tables(before, outcome):
        console.print(part)
    return 0


def play(plan: Plan, chosen: argparse.Namespace, *, trace: bool = False) -> Outcome:
    """`trace`: keeps the times of all microbatches.

    Raises:
        UserError: an option is out of range, a host unknown, or nothing fits.
    """
    options = _options(plan, chosen)
    if trace:
        options = replace(options, trace=(0, options.num_microbatches))
    plan = change(plan, chosen.settings)
    for name in chosen.drop:
        plan = without_host(plan, find_host(plan, name, "--drop"))
    again = bool(chosen.drop) or chosen.resolve
    problem, schedule = planned_again(plan) if again else as_planned(plan)
    with of_plan():
        simulation = simulate(problem, schedule, plan.runtime, options)
    return Outcome(plan=plan, schedule=schedule, again=again, options=options, simulation=simulation)


def _options(plan: Plan, chosen: argparse.Namespace) -> Options:
    def check(holds: bool, name: str, value: object, allowed: str) -> None:
        if not holds:
            raise UserError(f"invalid value {value} for --{name}: expected {allowed}")

    check(1 <= chosen.microbatches <= MOST_MICROBATCHES, "microbatches", chosen.microbatches,
          f"1 to {MOST_MICROBATCHES:,}")  # fmt: skip
    check(1 <= chosen.jitter <= 1000, "jitter", chosen.jitter, "1 (none) to 1000: p95 over median")
    check(chosen.rate is None or 0 < chosen.rate < math.inf, "rate", chosen.rate, "more than 0 items a second")
    check(chosen.warm_up >= 0, "warm-up", chosen.warm_up, "0 or more")
    check(0 < chosen.warm_up_factor < math.inf, "warm-up-factor", chosen.warm_up_factor, "a number greater than 0")
    check(0 <= chosen.seed < 1 << 63, "seed", chosen.seed, "0 to 2^63 - 1")
    return Options(
        num_microbatches=chosen.microbatches,
        microbatch=plan.items_per_message,
        rate_items_per_s=chosen.rate,
        jitter=chosen.jitter,
        seed=chosen.seed,
        num_warm_up=chosen.warm_up,
        warm_up_factor=chosen.warm_up_factor,
    )


def as_json(before: Plan, outcome: Outcome) -> dict[str, Any]:
    names, simulation = outcome.plan.cluster, outcome.simulation
    figures = asdict(simulation)
    del figures["trace"]
    for stage, use, planned in zip(figures["stages"], simulation.stages, outcome.schedule.stages, strict=True):
        stage |= {"host": names[use.host], "units": [planned.first, planned.last], "bubble": use.bubble}
    for link in figures["links"]:
        link |= {side: names[link[side]] for side in ("source", "destination")}
    schedule = outcome.schedule
    return {
        "plan": {**asdict(before.predicted)},
        "predicted": {
            "throughput_items_per_s": before.items_per_message / schedule.period_s,
            "period_s": schedule.period_s,
            "latency_s": schedule.latency_s,
            "bottleneck": bottleneck_name(schedule, names),
            "planned_again": outcome.again,
        },
        "options": {key: value for key, value in asdict(outcome.options).items() if key != "trace"},
        "simulated": figures,
    }


def tables(before: Plan, outcome: Outcome) -> Iterator[Table | str]:
    """What was simulated, the figures beside the predicted ones, and who waits for what."""
    options, schedule = outcome.options, outcome.schedule
    jitter = f"jitter p95 {options.jitter:g} x the median, seed {options.seed}" if options.jitter > 1 else "no jitter"
    arrivals = (
        "as fast as they are taken" if options.rate_items_per_s is None else format_items_rate(options.rate_items_per_s)
    )
    yield (
        f"{before.model.name}: {options.num_microbatches:,} microbatches of {options.microbatch:.4g}, {arrivals}, "
        f"{jitter}, buffers {outcome.plan.runtime.num_buffers_in} in, {outcome.plan.runtime.num_buffers_out} out"
    )
    if outcome.again:
        yield f"planned again: {schedule.certificate.method}, {len(schedule.stages)} stages"
    elif outcome.plan != before:
        yield "the plan's own stages with these figures (--resolve plans again)"
    yield _figures(before, outcome)
    yield _stages(outcome)
    if outcome.simulation.links:
        yield _links(outcome)
    busiest = _busiest(outcome)
    yield f"busiest: {busiest}; predicted bottleneck: {bottleneck_name(schedule, outcome.plan.cluster)}"
    rate, capacity = options.rate_items_per_s, before.items_per_message / schedule.period_s
    if rate is not None and rate > capacity:
        most = format_number(capacity)
        yield f"{format_items_rate(rate)} come, but this plan can do {most}: latency grows without bound"


def _figures(before: Plan, outcome: Outcome) -> Table:
    schedule, simulation = outcome.schedule, outcome.simulation
    changed = outcome.plan != before or outcome.again
    table = Table(title="figures", title_justify="left")
    table.add_column("")
    for name in ("plan.yaml", *(("predicted now",) if changed else ()), "simulated"):
        table.add_column(name, justify="right")

    def row(name: str, planned: str, now: str, simulated: str) -> None:
        table.add_row(name, planned, *((now,) if changed else ()), simulated)

    def rate(value: float | None) -> str:
        return "-" if value is None else format_items_rate(value, 4)

    predicted = before.predicted
    period_s = simulation.period_s
    row("throughput", rate(predicted.throughput_items_per_s), rate(before.items_per_message / schedule.period_s),
        rate(simulation.throughput_items_per_s))  # fmt: skip
    row("period", format_time(predicted.period_s), format_time(schedule.period_s),
        "-" if period_s is None else format_time(period_s))  # fmt: skip
    row("first result (one microbatch alone)", format_time(predicted.latency_s), format_time(schedule.latency_s),
        format_time(simulation.fill_s))  # fmt: skip
    latency = simulation.latency
    for name, value in (("p50", latency.p50_s), ("p95", latency.p95_s), ("p99", latency.p99_s), ("max", latency.max_s)):
        row(f"latency {name}", "", "", format_time(value))
    row("last result", "", "", format_time(simulation.total_s))
    return table


def _stages(outcome: Outcome) -> Table:
    table = Table(title="stages, in the second half of the run", title_justify="left")
    for name in ("stage", "host", "units", "compute", "busy", "waits for input", "waits to send"):
        table.add_column(name, justify="left" if name == "host" else "right")
    for use, stage in zip(outcome.simulation.stages, outcome.schedule.stages, strict=True):
        table.add_row(
            str(use.stage),
            outcome.plan.cluster[use.host],
            f"{stage.first}-{stage.last}",
            format_time(use.compute_s),
            *(f"{share:.1%}" for share in (use.busy, use.starved, use.blocked)),
        )
    return table


def _links(outcome: Outcome) -> Table:
    table = Table(title="links", title_justify="left")
    for name in ("link", "transfer", "busy"):
        table.add_column(name, justify="left" if name == "link" else "right")
    names = outcome.plan.cluster
    for use in outcome.simulation.links:
        link = f"{names[use.source]} -> {names[use.destination]}"
        table.add_row(link, format_time(use.transfer_s), f"{use.busy:.1%}")
    for shared in outcome.simulation.shared:
        table.add_row(_shared_name(shared.what, names), "", f"{shared.busy:.1%}")
    return table


def _shared_name(what: str, names: tuple[str, ...]) -> str:
    return "the shared medium" if what == "medium" else f"all that {names[0]} {what}"


def _busiest(outcome: Outcome) -> str:
    names, simulation = outcome.plan.cluster, outcome.simulation
    found = [(use.busy, f"stage {use.stage} on {names[use.host]}") for use in simulation.stages]
    found += [(use.busy, f"link {names[use.source]} -> {names[use.destination]}") for use in simulation.links]
    found += [(use.busy, _shared_name(use.what, names)) for use in simulation.shared]
    share, name = max(found, key=lambda item: item[0])
    return f"{name} ({share:.1%})"
