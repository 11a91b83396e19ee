"""`edgeplan show`: prints a plan as tables."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from edgecompile.contract.dim_rules import item_dims
from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import Generation, Perplexity
from edgecompile.contract.plan import Plan, Stage
from edgecompile.contract.plan_file import read_plan
from edgecompile.contract.quantities import (
    format_bytes,
    format_count,
    format_items_rate,
    format_number,
    format_rate,
    format_time,
)
from edgecompile.explore.proof import distance, proof
from edgecompile.terminal.console import table_console

__all__ = [
    "add_options",
    "network_table",
    "perplexity_line",
    "plan_figures",
    "plan_tables",
    "run",
    "workload_line",
]

MOST_DRAWN = 1000
WIDE = 120
"""Columns that the widest table takes with the names of most models; below, the one of stages is cut down."""
LEAST_NAME = 12
OPERATORS = "first and last operator"
ALL_COLUMNS = ("stage", "rank", "host", "units", OPERATORS, "compute", "sends", "in", "memory")
NARROW_COLUMNS = ("stage", "host", "units", OPERATORS, "compute", "memory")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="a plan.yaml")
    parser.add_argument("--timeline", action="store_true",
                        help="draw what each stage and link does while the first microbatches pass")  # fmt: skip
    parser.add_argument("--microbatches", type=int, default=8, metavar="N", help="how many microbatches (%(default)s)")


def run(chosen: argparse.Namespace) -> int:
    """The command's body."""
    plan = read_plan(chosen.plan)
    if not 1 <= chosen.microbatches <= MOST_DRAWN:
        raise UserError(f"invalid value {chosen.microbatches} for --microbatches: expected 1 to {MOST_DRAWN}")
    if chosen.json:
        print(json.dumps(plan_figures(plan) | (_timeline_figures(plan, chosen.microbatches) if chosen.timeline else {}),
                         indent=1))  # fmt: skip
        return 0
    console = table_console()
    for part in (*plan_tables(plan, console.width), network_table(plan), *_provenance(plan)):
        if part is not None:
            console.print(part, soft_wrap=isinstance(part, Text))  # a command stays in one piece
    if chosen.timeline:
        for line in _timeline(plan, chosen.microbatches, console.width):
            console.print(line)
    return 0


def _timeline(plan: Plan, num_microbatches: int, width: int) -> Iterator[Text | str]:
    """Simulated, since a plan has no run."""
    from edgecompile.explore.timeline.stage_timeline import drawn, simulated_rows

    yield f"timeline, {num_microbatches} microbatches, simulated"
    yield from drawn(simulated_rows(plan, num_microbatches), width)


def _timeline_figures(plan: Plan, num_microbatches: int) -> dict[str, Any]:
    from edgecompile.explore.timeline.stage_timeline import simulated_rows

    return {"timeline": [asdict(row) for row in simulated_rows(plan, num_microbatches)]}


def _provenance(plan: Plan) -> Iterator[Text]:
    made = plan.provenance
    if made is not None:
        words = "edgecompile " + " ".join(shlex.quote(word) for word in made.overrides)
        yield Text(f"compiled by edgecompile {made.edgecompile} with torch {made.torch} and Python {made.python}: "
                   f"{words.strip()}")  # fmt: skip


def plan_figures(plan: Plan) -> dict[str, Any]:
    """What `plan_tables` says, for scripts: seconds, bytes, bytes a second."""
    return {
        "model": asdict(plan.model) | {"num_units": len(plan.units)},
        "objective": plan.objective,
        "predicted": asdict(plan.predicted),
        "certificate": asdict(plan.certificate),
        "stages": [
            {
                "stage": stage.stage,
                "rank": stage.rank,
                "host": plan.hosts[stage.rank].name,
                "device": plan.hosts[stage.rank].device,
                "units": list(stage.units),
                "precision": stage.precision,
                "first_op": stage.first_op,
                "last_op": stage.last_op,
                "sends_bytes": plan.sent_bytes(stage),
                **asdict(stage.predicted),
                "memory_limit_bytes": plan.hosts[stage.rank].limits.memory_bytes,
            }
            for stage in plan.stages
        ],
        "hosts": [{"rank": host.rank, "name": host.name, "address": host.address} for host in plan.hosts],
        "unused_hosts": [host.name for host in plan.unused_hosts],
        "links": [
            asdict(link) | {"source": plan.hosts[link.source].name, "destination": plan.hosts[link.destination].name}
            for link in plan.links
        ],
        "contingencies": [
            {"lost": item.lost, "predicted": asdict(item.predicted), "gap": item.certificate.gap}
            for item in plan.contingencies
        ],
        "generation": None if plan.generation is None else _text_figures(plan.generation),
        "accuracy": None if plan.accuracy is None else asdict(plan.accuracy),
        "notes": list(plan.notes),
        "provenance": None if plan.provenance is None else asdict(plan.provenance),
    }


def _text_figures(generation: Generation) -> dict[str, Any]:
    left_out = ("golden", "template", "state")
    return {name: value for name, value in asdict(generation).items() if name not in left_out}


def workload_line(plan: Plan) -> str:
    """Of what messages the predictions are, in a plan whose items vary in size."""
    ranges = ", ".join(f"{name} {dim.min} to {dim.max}" for name, dim in plan.model.dims.items())
    if plan.workload is None:
        return f"messages vary in size ({ranges}); predicted for the largest: workload=FILE plans for your own items"
    found = plan.workload
    return (
        f"messages vary in size ({ranges}); predicted for {found.source}: {found.items:.1f} items and "
        f"{found.positions:.0f} positions a message, {1 - found.useful:.0%} padding; memory is of the largest"
    )


def text_lines(generation: Generation) -> Iterator[str]:
    """What is predicted of generating text, and the memory of its state."""
    found = generation.predicted
    yield (
        f"text: first token {format_time(found.first_token_s)} after a prompt of {generation.prompt} tokens, then "
        f"{format_time(found.token_s)} a token alone; {format_number(found.tokens_per_s)} tokens/s with "
        f"{generation.slots} streams, prompts {format_number(found.prompt_tokens_per_s)} tokens/s"
    )
    if found.alone_token_s:
        alone = (f"{name} {format_time(seconds)}" for name, seconds in found.alone_token_s.items())
        yield f"one host alone: {', '.join(alone)} a token"
    else:
        yield "one host alone: none holds the model"
    kept = generation.slots * generation.slot_bytes
    yield (
        f"keys and values: {format_bytes(kept)} for {generation.slots} slots of {generation.context} tokens, "
        f"{format_bytes(generation.slot_bytes // generation.context)} a token"
        f"{', in bf16' if generation.in_bf16 else ''}"
    )
    if generation.perplexity is not None:
        yield perplexity_line(generation.perplexity)


def perplexity_line(found: Perplexity) -> str:
    """How well the next token is foretold, before and after what the plan rounds."""
    told = f"perplexity on {found.tokens} tokens of {found.text}: {format_number(found.model, 4)} in fp32"
    if found.plan is None:
        return told
    return (
        f"{told}, {format_number(found.plan, 4)} with this plan; the most likely token stays at {found.same:.1%}, its "
        f"distribution diverges by {found.mean_divergence:.3g} nats on average, {found.worst_divergence:.3g} at worst"
    )


def plan_tables(plan: Plan, width: int = WIDE) -> Iterator[Table | str]:
    """What the plan does, in the order in which a reader asks: how fast, what holds it back, who runs what.

    Args:
        width: columns that there are; where they are few, tables have fewer of their own.
    """
    predicted = plan.predicted
    yield (
        f"{plan.model.name}: {format_count(plan.model.num_parameters)} parameters in {len(plan.units)} units, "
        f"microbatch {plan.model.microbatch}, weights {plan.model.weights}"
    )
    yield (
        f"predicted {format_items_rate(predicted.throughput_items_per_s)}, latency {format_time(predicted.latency_s)}, "
        f"period {format_time(predicted.period_s)} set by {predicted.bottleneck}"
    )
    if item_dims(plan):
        yield workload_line(plan)
    if plan.generation is not None:
        yield from text_lines(plan.generation)
    yield proof(plan)
    if any(stage.precision != "fp32" for stage in plan.stages):
        places = (f"{stage.precision} on {plan.hosts[stage.rank].name}" for stage in plan.stages)
        kept = ", keys and values in bf16" if plan.generation is not None and plan.generation.in_bf16 else ""
        yield f"products and convolutions with weights in {', '.join(places)}{kept}; all else in fp32"
    yield _stages(plan, width)
    if plan.hosts and plan.stage_of_rank(0) is None:
        yield f"rank 0, {plan.hosts[0].name}, feeds inputs and takes results; it runs no stage"
    if plan.unused_hosts:
        yield f"left unused, since no plan with them is better: {', '.join(host.name for host in plan.unused_hosts)}"
    for item in plan.contingencies:
        rate = format_items_rate(item.predicted.throughput_items_per_s)
        yield f"without {item.lost}: {rate} in {len(item.stages)} stages, {distance(item.certificate)}"
    yield from plan.notes


def _stages(plan: Plan, width: int) -> Table:
    """A row a stage; in few columns without ranks and transfers, and with operators' names cut at their front."""
    table = Table(title="stages", title_justify="left")
    names = ALL_COLUMNS if width >= WIDE else NARROW_COLUMNS
    rows = [dict(zip(ALL_COLUMNS, _stage_row(plan, stage), strict=True)) for stage in plan.stages]
    taken = sum(_widest([name, *(row[name] for row in rows)]) + 3 for name in names if name != OPERATORS)
    room = max(LEAST_NAME, width - taken - 4)
    for name in names:
        left = name in ("host", OPERATORS)
        table.add_column(name, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    for row in rows:
        row[OPERATORS] = "\n".join(_cut(op, room) for op in row[OPERATORS].split("\n"))
        table.add_row(*(row[name] for name in names))
    return table


def _stage_row(plan: Plan, stage: Stage) -> list[str]:
    host = plan.hosts[stage.rank]
    return [
        str(stage.stage),
        str(stage.rank),
        f"{host.name}\n{host.device}",
        f"{stage.units[0]}-{stage.units[1]}",
        f"{stage.first_op}\n{stage.last_op}",
        format_time(stage.predicted.compute_s),
        format_bytes(plan.sent_bytes(stage)),
        format_time(stage.predicted.send_s) if stage.predicted.send_s else "-",
        f"{format_bytes(stage.predicted.memory_bytes)}\nof {format_bytes(host.limits.memory_bytes)}",
    ]


def _widest(cells: list[str]) -> int:
    return max(len(line) for cell in cells for line in cell.split("\n"))


def _cut(name: str, room: int) -> str:
    """The end of a name says most: `...layers.11.mlp.fc1`."""
    return name if len(name) <= room else f"...{name[3 - room :]}"


def network_table(plan: Plan) -> Table | None:
    """What the ranks' interfaces carry, or their links where each has its own figures; those alike share a row."""
    if len(plan.hosts) < 2:
        return None
    network = plan.network
    pairwise = network.model == "pairwise"
    table = Table(title="network", title_justify="left")
    for name in ("links" if pairwise else "interfaces", "bandwidth", "latency"):
        table.add_column(name, justify="right" if name in ("bandwidth", "latency") else "left")
    alike: dict[tuple[float, float], list[str]] = {}
    if pairwise:
        for link in plan.links:
            pair = f"{plan.hosts[link.source].name} -> {plan.hosts[link.destination].name}"
            alike.setdefault((link.bandwidth_bytes_per_s, link.latency_s), []).append(pair)
    else:
        for host in plan.hosts:
            rate = host.limits.bandwidth_bytes_per_s
            if rate is not None:
                alike.setdefault((rate, network.latency_s), []).append(host.name)
    total = sum(len(names) for names in alike.values())
    for (rate, latency_s), names in alike.items():
        shown = f"all {total}" if len(names) == total > 2 else ", ".join(names)
        table.add_row(shown, format_rate(rate), format_time(latency_s))
    if network.bandwidth_bytes_per_s is not None:
        table.add_row("the channel they share", format_rate(network.bandwidth_bytes_per_s), "")
    return table if table.rows else None
