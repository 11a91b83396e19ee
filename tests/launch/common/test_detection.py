"""How long a link may be silent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import launch_plans
import pytest
import torch

from edgecompile.contract.cluster import Limits, Network
from edgecompile.contract.plan import Plan
from edgelaunch.common.detection import detection_s, silence_s
from edgelaunch.common.plan_parts import QUEUE_BYTES, slowest_queue_s


def plan_at(folder: Path, bytes_per_s: float, detect_s: float, num_floats: int = 100) -> Plan:
    """Two stages that exchange messages of two rows."""
    parts = [launch_plans.Part(launch_plans.Scale(2.0), ["y"]) for _ in range(2)]
    written = launch_plans.write(folder, {"x": torch.rand(2, num_floats)}, parts, detect_s=detect_s)
    limits = Limits(memory_bytes=1 << 30, cpu_share=None, bandwidth_bytes_per_s=bytes_per_s)
    hosts = tuple(replace(host, limits=limits) for host in written.plan.hosts)
    return replace(written.plan, hosts=hosts, network=Network(model="host", latency_s=0.5))


def test_detection_takes_longer_on_slow_links(tmp_path: Path) -> None:
    plan = plan_at(tmp_path / "slow", 400.0, 2.0)
    assert slowest_queue_s(plan) == pytest.approx(2.5)
    assert detection_s(plan) == pytest.approx(11.25)
    assert silence_s(plan) > 2 * slowest_queue_s(plan)
    plan = plan_at(tmp_path / "fast", 1e8, 4.0)
    assert detection_s(plan) == 4.0


def test_large_messages_come_with_answers_that_tell_of_them(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, 1e6, 2.0, num_floats=10**6)
    assert slowest_queue_s(plan) == pytest.approx(0.5 + QUEUE_BYTES / 1e6)
