"""Writes the boards that were found as devices and hosts options for edgecompile. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import check_ours
from edgelaunch.boards.board_facts import BoardFacts
from edgelaunch.link_test.hosts_option import DEVICES, HOSTS, Figures, write_text

__all__ = ["NAME", "FoundHost", "check_output", "option_paths", "options_text", "ports_of", "write_options"]

NAME = "found"
BEGIN = "# the boards that edgelaunch boards found"
PORT = 29500
MEMORY_SHARE = 0.875
"""Of a board's memory, for a rank: the rest is the system's, as in conf/board."""
USUAL_LATENCY = "300us"
"""On a switch; --links measures it."""


@dataclass(frozen=True, kw_only=True)
class FoundHost:
    facts: BoardFacts
    address: str


def option_paths(folder: Path) -> tuple[Path, Path]:
    """Of the devices and the hosts option."""
    return folder / DEVICES / f"{NAME}.yaml", folder / HOSTS / f"{NAME}.yaml"


def check_output(folder: Path) -> None:
    """Raises UserError where a file of the user's would be overwritten."""
    for path, what in zip(option_paths(folder), ("devices option", "hosts option"), strict=True):
        check_ours(path, re.escape(BEGIN), f"{what} of edgelaunch boards", "name another --output")


def write_options(folder: Path, hosts: Sequence[FoundHost], links: Mapping[tuple[int, int], Figures]) -> None:
    """Raises UserError where one cannot be written."""
    for path, text in zip(option_paths(folder), options_text(hosts, links), strict=True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path.parent}: cannot be made: {error.strerror}") from None
        write_text(text, path)


def options_text(hosts: Sequence[FoundHost], links: Mapping[tuple[int, int], Figures]) -> tuple[str, str]:
    """Of the devices and the hosts option; `links`: what was measured, by places in `hosts`, may be empty."""
    kinds = list(dict.fromkeys(host.facts.kind for host in hosts))
    devices = f"{BEGIN}: figures and sources in conf/board\n" + _yaml(
        {"defaults": [{f"/board@{kind}": kind} for kind in kinds]}
    )
    network, rates = _network(hosts, links)
    ports = ports_of(hosts)
    members: dict[str, dict[str, Any]] = {}
    for number, host in enumerate(hosts):
        member: dict[str, Any] = {"device": host.facts.kind, "address": host.address}
        member["port"] = ports[number]
        member["memory"] = int(host.facts.memory_bytes * MEMORY_SHARE)
        if number in rates:
            member["bandwidth"] = rates[number]
        members[host.facts.name] = member
    text = f"{BEGIN}; the first one feeds the inputs and takes the results\n"
    return devices, text + _yaml({"network": network}) + _yaml({"members": members})


def ports_of(hosts: Sequence[FoundHost]) -> list[int]:
    """Where each would listen as rank 0: boards of one address have one each."""
    used: Counter[str] = Counter()
    found = []
    for host in hosts:
        found.append(PORT + used[host.address])
        used[host.address] += 1
    return found


def _network(
    hosts: Sequence[FoundHost], links: Mapping[tuple[int, int], Figures]
) -> tuple[dict[str, Any], dict[int, str]]:
    if not links:
        return {"model": "host", "latency": USUAL_LATENCY}, {}
    pairs = {
        f"{hosts[source].facts.name}->{hosts[destination].facts.name}": {
            "bandwidth": f"{figures.bandwidth_bytes_per_s * 8 / 1e6:.3f}Mbps",
            "latency": f"{figures.latency_s * 1e6:.0f}us",
        }
        for (source, destination), figures in sorted(links.items())
    }
    best = {
        number: f"{max(item.bandwidth_bytes_per_s for pair, item in links.items() if number in pair) * 8 / 1e6:.3f}Mbps"
        for number in range(len(hosts))
    }
    return {"model": "pairwise", "pairs": pairs}, best


def _yaml(values: dict[str, Any]) -> str:
    return str(yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=10**6))
