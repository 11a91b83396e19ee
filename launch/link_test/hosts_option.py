"""Prints the measured links beside the plan's, and writes them as a hosts option for edgecompile."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml
from rich.console import Console
from rich.table import Table

from edgecompile.contract.cluster import Host
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import replacing
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_rate, format_time

__all__ = [
    "DEVICES_BEGIN",
    "HOSTS",
    "Figures",
    "Found",
    "devices_beside",
    "devices_option",
    "hosts_option",
    "links_table",
    "print_links",
    "write_text",
]

PLAIN_WIDTH = 120
HOSTS, DEVICES = "hosts", "devices"
"""The folders of these options, in a folder that --config-dir names."""
DEVICES_BEGIN = "# the kinds of devices of the plan whose links were measured"
ALIKE = 0.05
"""So far may a measured bandwidth be from the slower end's interface where one rate a host is to say it all."""
LATENCY_ALIKE = 0.2
LATENCY_NOISE_S = 100e-6


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one ordered pair of ranks."""

    bandwidth_bytes_per_s: float
    latency_s: float


Found = Mapping[tuple[int, int], Figures]
"""By source and destination rank; every ordered pair."""


def links_table(plan: Plan, found: Found) -> Table:
    table = Table(title="links, measured", title_justify="left")
    for name in ("source", "destination", "bandwidth", "plan", "ratio", "latency", "plan"):
        table.add_column(name, justify="left" if name in ("source", "destination") else "right", overflow="fold")
    for (source, destination), figures in sorted(found.items()):
        link = plan.link(source, destination)
        ratio = figures.bandwidth_bytes_per_s / link.bandwidth_bytes_per_s if link is not None else None
        table.add_row(
            plan.hosts[source].name,
            plan.hosts[destination].name,
            format_rate(figures.bandwidth_bytes_per_s),
            format_rate(link.bandwidth_bytes_per_s) if link is not None else "-",
            f"{ratio:.2f}" if ratio is not None else "-",
            format_time(figures.latency_s),
            format_time(link.latency_s) if link is not None else "-",
        )
    return table


def hosts_option(plan: Plan, found: Found) -> str:
    """The text of a hosts option: one rate a host where that says all that was measured, else a rate a pair."""
    rates = _interfaces(plan, found)
    latency_s = statistics.median(figures.latency_s for figures in found.values())
    network: dict[str, Any] = {"model": "host", "latency": _time(latency_s)}
    if not _rates_say_all(found, rates, latency_s):
        network["model"] = "pairwise"
        network["pairs"] = {
            f"{plan.hosts[source].name}->{plan.hosts[destination].name}": {
                "bandwidth": _rate(figures.bandwidth_bytes_per_s),
                "latency": _time(figures.latency_s),
            }
            for (source, destination), figures in sorted(found.items())
        }
    members = {host.name: _member(host, rates[host.rank]) for host in plan.hosts}
    text = "# measured by edgelaunch links; the first host feeds the inputs and takes the results\n"
    if plan.unused_hosts:
        text += (
            f"# not measured, since the plan leaves them unused: {', '.join(host.name for host in plan.unused_hosts)}\n"
        )
    width = 10**6  # a line a pair, however long its names
    return text + yaml.safe_dump({"network": network}, sort_keys=False, default_flow_style=None, width=width) + (
        yaml.safe_dump({"members": members}, sort_keys=False, default_flow_style=None, width=width)
    )  # fmt: skip


def devices_option(plan: Plan) -> str:
    """The text of a devices option: the kinds of the plan's hosts, with the figures that it was made with."""
    used = {host.device for host in plan.hosts}
    kinds = {
        device.name: {
            "execution": device.execution,
            "dtype": device.dtype,
            "peak": {device.dtype: device.peak_flops_per_s},
            "efficiency": 1.0,
            "memory_bandwidth": device.memory_bytes_per_s,
            "memory": device.memory_bytes,
            "runtime_memory": device.runtime_bytes,
            "launch_overhead": device.launch_s,
            "network": device.network_bytes_per_s,
            "threads": device.threads,
        }
        for device in plan.devices
        if device.name in used
    }
    text = f"{DEVICES_BEGIN}, with its figures: FLOPS as products\n# reach them, bytes, bytes a second, seconds\n"
    return text + yaml.safe_dump(kinds, sort_keys=False, default_flow_style=None, width=10**6)


def devices_beside(output: Path) -> Path | None:
    """Where the devices option goes that belongs to a hosts option; None where that is in no folder of them."""
    folder = output.resolve().parent
    return folder.parent / DEVICES / output.name if folder.name == HOSTS else None


def _interfaces(plan: Plan, found: Found) -> list[float]:
    """What each host's interface carried at best, in either direction."""
    return [
        max(figures.bandwidth_bytes_per_s for pair, figures in found.items() if host.rank in pair)
        for host in plan.hosts
    ]


def _rates_say_all(found: Found, rates: list[float], latency_s: float) -> bool:
    return all(
        figures.bandwidth_bytes_per_s >= (1 - ALIKE) * min(rates[source], rates[destination])
        and abs(figures.latency_s - latency_s) <= max(LATENCY_ALIKE * latency_s, LATENCY_NOISE_S)
        for (source, destination), figures in found.items()
    )


def _member(host: Host, rate: float) -> dict[str, Any]:
    member: dict[str, Any] = {
        "device": host.device,
        "address": host.address,
        "port": host.port,
        "bandwidth": _rate(rate),
        "memory": host.limits.memory_bytes,
        "threads": host.threads,
    }
    if host.limits.cpu_share is not None:
        member["cpu_share"] = host.limits.cpu_share
    return member


def _rate(bytes_per_s: float) -> str:
    """`93.4Mbps`: as configs write rates."""
    mega = bytes_per_s * 8 / 1e6
    return f"{mega:.1f}Mbps" if mega >= 10 else f"{mega:.3f}Mbps"


def _time(seconds: float) -> str:
    """`300us`: as configs write times."""
    return f"{seconds * 1e6:.0f}us" if seconds < 0.01 else f"{seconds * 1e3:.1f}ms"


def write_text(text: str, path: Path) -> None:
    """To a temporary file beside it, then renamed.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def print_measured(plan: Plan, found: Found, stream: TextIO) -> None:
    """The table alone, of the pairs that there are."""
    plain = not stream.isatty()
    console = Console(file=stream, width=PLAIN_WIDTH if plain else None, highlight=False, soft_wrap=plain)
    console.print(links_table(plan, found))


def print_links(plan: Plan, found: Found, output: Path | None, *, quiet: bool, as_json: bool) -> None:
    """The table, and the options into `output` and beside it. Without one, standard output has the hosts option.

    `as_json`: standard output has what was measured, and nothing else.

    Raises:
        UserError: a file cannot be written.
    """
    devices = devices_beside(output) if output is not None else None
    text = hosts_option(plan, found)
    if not (quiet or as_json):
        print_measured(plan, found, sys.stdout if output is not None else sys.stderr)
    written = []
    if output is not None:
        written.append(output)
        write_text(text, output)
        if devices is not None:
            written.append(devices)
            write_text(devices_option(plan), devices)
    if as_json:
        print(json.dumps(_figures(plan, found, written), indent=1))
    elif output is None:
        print(text, end="")
    elif not quiet:
        print(_advice(plan, output, known=devices is not None))


def _figures(plan: Plan, found: Found, written: list[Path]) -> dict[str, Any]:
    links = []
    for (source, destination), figures in sorted(found.items()):
        planned = plan.link(source, destination)
        links.append({
            "source": plan.hosts[source].name,
            "destination": plan.hosts[destination].name,
            "bandwidth_bytes_per_s": figures.bandwidth_bytes_per_s,
            "latency_s": figures.latency_s,
            "planned_bandwidth_bytes_per_s": None if planned is None else planned.bandwidth_bytes_per_s,
            "planned_latency_s": None if planned is None else planned.latency_s,
        })  # fmt: skip
    return {"links": links, "files": [str(path) for path in written]}


def _advice(plan: Plan, output: Path, *, known: bool) -> str:
    """How to plan with what was measured."""
    if known:
        folder = (output if output.parent.name == HOSTS else output.resolve()).parent.parent
        return (f"{output} and {folder / DEVICES / output.name}: edgecompile --config-dir {folder} "
                f"devices={output.stem} ... plans with what was measured")  # fmt: skip
    kinds = ", ".join(dict.fromkeys(host.device for host in plan.hosts))
    return (f"{output}: put it into DIR/{HOSTS}, and edgecompile --config-dir DIR hosts={output.stem} devices=... "
            f"plans with what was measured; the devices option must have {kinds}")  # fmt: skip
