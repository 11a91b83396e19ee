"""`edgeplan diff`: compares two plans: units moved, settings changed, effect on the predictions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from edgecompile.contract.cluster import Host, SpareHost
from edgecompile.contract.plan import Plan, Stage
from edgecompile.contract.plan_file import read_plan
from edgecompile.contract.quantities import format_bytes, format_items_rate, format_rate, format_time
from edgecompile.terminal.console import table_console

__all__ = ["Cut", "Difference", "Move", "Share", "add_options", "compare", "run"]

NOWHERE = "-"
MOVE_COLUMNS = ("units", "first and last operator", "from", "to", "took", "takes")
HOST_COLUMNS = ("host", "units in A", "in B", "compute in A", "in B", "change", "memory in A", "in B")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Something that the plans were made from."""

    what: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Move:
    """Units that one host ran before, and another one after."""

    first: int
    last: int
    first_op: str
    last_op: str
    before: str
    after: str
    before_s: float
    after_s: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one host does; None: nothing, or not in that plan."""

    host: str
    before_units: tuple[int, int] | None
    after_units: tuple[int, int] | None
    before_s: float | None
    after_s: float | None
    before_bytes: int | None
    after_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A stage's outputs: where they go from and to, and how many bytes a microbatch."""

    after_unit: int
    link: str
    num_bytes: int
    send_s: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    settings: tuple[Setting, ...]
    moves: tuple[Move, ...] | None
    """None where the plans' units are not the same, so that none of them can be followed."""
    shares: tuple[Share, ...]
    before_cuts: tuple[Cut, ...]
    after_cuts: tuple[Cut, ...]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="A", help="a plan.yaml")
    parser.add_argument("after", metavar="B", help="the one to compare it with")


def run(chosen: argparse.Namespace) -> int:
    """The command's body."""
    before, after = read_plan(chosen.before), read_plan(chosen.after)
    found = compare(before, after)
    if chosen.json:
        print(json.dumps(_as_json(before, after, found), indent=1))
        return 0
    console = table_console()
    for part in _tables(before, after, found):
        console.print(part)
    return 0


def compare(before: Plan, after: Plan) -> Difference:
    """What differs between two plans, of the same model or not."""
    same_units = [unit.op for unit in before.units] == [unit.op for unit in after.units]
    return Difference(
        settings=tuple(_settings(before, after)),
        moves=tuple(_moves(before, after)) if same_units else None,
        shares=tuple(_shares(before, after)),
        before_cuts=_cuts(before),
        after_cuts=_cuts(after),
    )


# --- what was asked for ----------------------------------------------------------------------------------------------


def _settings(before: Plan, after: Plan) -> Iterator[Setting]:
    first, second = _facts(before), _facts(after)
    for what in (*first, *(what for what in second if what not in first)):
        old, new = first.get(what, NOWHERE), second.get(what, NOWHERE)
        if old != new:
            yield Setting(what=what, before=old, after=new)


def _facts(plan: Plan) -> dict[str, str]:
    asked, model = plan.scheduling, plan.model
    facts = {
        "model": model.name,
        "weights": model.weights,
        "microbatch": str(model.microbatch),
        "units": str(len(plan.units)),
        "objective": plan.objective,
        "schedule": asked.method,
        "wire": ", ".join(asked.per_cut) or asked.wire,
        "precision": ", ".join(
            dict.fromkeys(
                f"{stage.precision} on {_host_of(plan, stage).name}"
                for stage in plan.stages
                if stage.precision != "fp32"
            )
        )
        or "fp32",
        "excluded hosts": ", ".join(asked.exclude),
        "most hosts": _or_none(asked.max_hosts),
        "latency limit": _or_none(asked.latency_limit_s, format_time),
        "period limit": _or_none(asked.period_limit_s, format_time),
        "pinned": "; ".join(f"{pin.units[0]}-{pin.units[1]} to {', '.join(pin.hosts)}" for pin in asked.pins),
        "kept together": "; ".join(f"{first}-{last}" for first, last in asked.together),
        "buffers in, out": f"{plan.runtime.num_buffers_in}, {plan.runtime.num_buffers_out}",
        "weights prepacked": plan.runtime.prepack,
        "network": plan.network.model,
        "the channel's bandwidth": _or_none(plan.network.bandwidth_bytes_per_s, format_rate),
        "link latency": format_time(plan.network.latency_s),
    }
    if plan.provenance is not None:
        made = plan.provenance
        facts |= {"edgecompile": made.edgecompile, "torch": made.torch, "Python": made.python}
    for pair in plan.network.pairs:
        link = f"link {pair.source} -> {pair.destination}"
        facts[link] = f"{format_rate(pair.bandwidth_bytes_per_s)}, {format_time(pair.latency_s)}"
    for host in plan.all_hosts:
        facts |= _host_facts(host)
    for device in plan.devices:
        total_s = sum(unit.time_s[device.name] for unit in plan.units)
        facts[f"all units on a {device.name}"] = format_time(total_s)
        facts[f"runtime memory on a {device.name}"] = format_bytes(device.runtime_bytes)
    return facts


def _host_facts(host: Host | SpareHost) -> dict[str, str]:
    limits = host.limits
    return {
        f"{host.name}: device": host.device,
        f"{host.name}: threads": str(host.threads or "all cores"),
        f"{host.name}: memory": format_bytes(limits.memory_bytes),
        f"{host.name}: bandwidth": _or_none(limits.bandwidth_bytes_per_s, format_rate),
        f"{host.name}: CPU share": _or_none(limits.cpu_share),
    }


def _or_none(value: Any, show: Any = str) -> str:
    return NOWHERE if value is None else str(show(value))


# --- results ----------------------------------------------------------------------------------------------------------


def _host_of(plan: Plan, stage: Stage) -> Host:
    return plan.hosts[stage.rank]


def _moves(before: Plan, after: Plan) -> Iterator[Move]:
    """Stretches of units, as long as they go, that changed their host."""
    owners = [_owners(plan) for plan in (before, after)]
    pairs = list(zip(*owners, strict=True))
    begin = 0
    for end in range(1, len(pairs) + 1):
        if end < len(pairs) and pairs[end] == pairs[begin]:
            continue
        source, destination = pairs[begin]
        if source.name != destination.name:
            yield Move(
                first=begin,
                last=end - 1,
                first_op=after.units[begin].op,
                last_op=after.units[end - 1].op,
                before=source.name,
                after=destination.name,
                before_s=sum(unit.time_s[source.device] for unit in before.units[begin:end]),
                after_s=sum(unit.time_s[destination.device] for unit in after.units[begin:end]),
            )
        begin = end


def _owners(plan: Plan) -> list[Host]:
    """The host of each unit."""
    return [_host_of(plan, stage) for stage in plan.stages for _ in range(stage.units[0], stage.units[1] + 1)]


def _shares(before: Plan, after: Plan) -> Iterator[Share]:
    stages = [{_host_of(plan, stage).name: stage for stage in plan.stages} for plan in (before, after)]
    for name in (*before.cluster, *(name for name in after.cluster if name not in before.cluster)):
        old, new = (found.get(name) for found in stages)
        if old is None and new is None:
            continue
        yield Share(
            host=name,
            before_units=old.units if old else None,
            after_units=new.units if new else None,
            before_s=old.predicted.compute_s if old else None,
            after_s=new.predicted.compute_s if new else None,
            before_bytes=old.predicted.memory_bytes if old else None,
            after_bytes=new.predicted.memory_bytes if new else None,
        )


def _cuts(plan: Plan) -> tuple[Cut, ...]:
    """Outputs that travel from one host to another; the last stage's go to the data host."""
    ranks = [*(stage.rank for stage in plan.stages), 0]
    return tuple(
        Cut(
            after_unit=stage.units[1],
            link=f"{plan.hosts[stage.rank].name} -> {plan.hosts[following].name}",
            num_bytes=plan.sent_bytes(stage),
            send_s=stage.predicted.send_s,
        )
        for stage, following in zip(plan.stages, ranks[1:], strict=True)
        if stage.rank != following
    )


# --- as text ---------------------------------------------------------------------------------------------------------


def _as_json(before: Plan, after: Plan, found: Difference) -> dict[str, Any]:
    return {
        "before": {"predicted": asdict(before.predicted), "certificate": asdict(before.certificate)},
        "after": {"predicted": asdict(after.predicted), "certificate": asdict(after.certificate)},
        **asdict(found),
    }


def _tables(before: Plan, after: Plan, found: Difference) -> Iterator[Table | str]:
    yield _figures(before, after)
    if found.settings:
        yield _table("asked for", ("", "A", "B"), ((item.what, item.before, item.after) for item in found.settings))
    else:
        yield "both were compiled with the same settings"
    if found.moves is None:
        yield "the plans' units differ, so they cannot be matched between A and B"
    elif found.moves:
        yield _table("moved", MOVE_COLUMNS, map(_move_row, found.moves))
    else:
        yield "no unit moved"
    yield _table("hosts", HOST_COLUMNS, map(_share_row, found.shares))
    if found.before_cuts != found.after_cuts:
        rows = ((name, str(cut.after_unit), cut.link, format_bytes(cut.num_bytes), format_time(cut.send_s))
                for name, cuts in (("A", found.before_cuts), ("B", found.after_cuts)) for cut in cuts)  # fmt: skip
        yield _table("transfers", ("plan", "after unit", "link", "sends", "takes"), rows)


def _figures(before: Plan, after: Plan) -> Table:
    old, new = before.predicted, after.predicted
    rows = [
        ("throughput", *(format_items_rate(item.throughput_items_per_s, 4) for item in (old, new)),
         _change(old.throughput_items_per_s, new.throughput_items_per_s)),
        ("period", format_time(old.period_s), format_time(new.period_s), _change(old.period_s, new.period_s)),
        ("latency", format_time(old.latency_s), format_time(new.latency_s), _change(old.latency_s, new.latency_s)),
        ("bottleneck", old.bottleneck, new.bottleneck, ""),
        ("stages", str(len(before.stages)), str(len(after.stages)), ""),
        ("from the best possible", f"{before.certificate.gap:.1%}", f"{after.certificate.gap:.1%}", ""),
    ]  # fmt: skip
    return _table(f"{before.model.name} and {after.model.name}", ("predicted", "A", "B", "change"), rows)


def _move_row(move: Move) -> tuple[str, ...]:
    ops = move.first_op if move.first == move.last else f"{move.first_op}\n{move.last_op}"
    times = (format_time(move.before_s), format_time(move.after_s))
    return (f"{move.first}-{move.last}", ops, move.before, move.after, *times)


def _share_row(share: Share) -> tuple[str, ...]:
    def units(found: tuple[int, int] | None) -> str:
        return NOWHERE if found is None else f"{found[0]}-{found[1]}"

    return (
        share.host,
        units(share.before_units),
        units(share.after_units),
        _or_none(share.before_s, format_time),
        _or_none(share.after_s, format_time),
        _change(share.before_s, share.after_s),
        _or_none(share.before_bytes, format_bytes),
        _or_none(share.after_bytes, format_bytes),
    )


def _change(before: float | None, after: float | None) -> str:
    return "" if not before or after is None else f"{after / before - 1:+.1%}"


def _table(title: str, columns: tuple[str, ...], rows: Any) -> Table:
    table = Table(title=title, title_justify="left")
    words = {"", "predicted", "A", "B", "first and last operator", "from", "to", "host", "link", "plan"}
    for name in columns:
        table.add_column(name, justify="left" if name in words else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
