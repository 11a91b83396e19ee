"""What was found, as options that edgecompile composes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from edgecompile.contract.errors import UserError
from edgelaunch.boards.board_facts import own_facts
from edgelaunch.boards.found_options import FoundHost, check_output, option_paths, ports_of, write_options
from edgelaunch.link_test.hosts_option import Figures

FACTS = replace(own_facts("pi-0"), kind="raspberry_pi_5", memory_bytes=8_000_000_000)
HOSTS = [
    FoundHost(facts=FACTS, address="10.0.0.1"),
    FoundHost(facts=replace(FACTS, name="box", kind="intel_n100"), address="10.0.0.2"),
    FoundHost(facts=replace(FACTS, name="box-2", kind="intel_n100"), address="10.0.0.2"),
]


def test_the_options_say_what_was_found(tmp_path: Path) -> None:
    write_options(tmp_path, HOSTS, {})
    devices, hosts = (yaml.safe_load(path.read_text()) for path in option_paths(tmp_path))
    assert devices == {"defaults": [{"/board@raspberry_pi_5": "raspberry_pi_5"}, {"/board@intel_n100": "intel_n100"}]}
    assert list(hosts["members"]) == ["pi-0", "box", "box-2"]
    assert hosts["members"]["pi-0"] == {"device": "raspberry_pi_5", "address": "10.0.0.1", "port": 29500,
                                        "memory": 7_000_000_000}  # fmt: skip
    assert hosts["network"]["model"] == "host"
    assert ports_of(HOSTS) == [29500, 29500, 29501]


def test_measured_links_are_pairs(tmp_path: Path) -> None:
    figures = Figures(bandwidth_bytes_per_s=12.5e6, latency_s=0.0003)
    pairs = {(a, b): figures for a in range(3) for b in range(3) if a != b}
    write_options(tmp_path, HOSTS, pairs)
    hosts = yaml.safe_load(option_paths(tmp_path)[1].read_text())
    assert hosts["network"]["model"] == "pairwise"
    assert hosts["network"]["pairs"]["pi-0->box"] == {"bandwidth": "100.000Mbps", "latency": "300us"}
    assert hosts["members"]["box"]["bandwidth"] == "100.000Mbps"


def test_only_our_own_files_are_replaced(tmp_path: Path) -> None:
    check_output(tmp_path)
    write_options(tmp_path, HOSTS, {})
    check_output(tmp_path)
    devices = option_paths(tmp_path)[0]
    devices.write_text("# mine\n")
    with pytest.raises(UserError, match="devices option of edgelaunch boards"):
        check_output(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        write_options(tmp_path / "file", HOSTS, {})
