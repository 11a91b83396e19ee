"""Prometheus is told the state that the live page shows."""

from __future__ import annotations

from typing import Any

import pytest
from launch_plans import Written

from edgelaunch.common.rank_figures import LinkCount, RankFigures
from edgelaunch.control.pace import Counters, Load, Overview, Pace
from edgelaunch.control.pipeline_state import PipelineState
from edgelaunch.report.metrics import RankCollector

SECOND = 10**9


class Runner:
    def __init__(self, rank: int, state: PipelineState) -> None:
        self._rank, self._state = rank, state

    def counters(self) -> Counters:
        parts = {"wait_input": SECOND, "compute": 3 * SECOND, "wait_output": 0, "pack": 0}
        return Counters(rank=self._rank, host=f"host-{self._rank}", epoch=2, num_microbatches=7, stage_ns=parts,
                        received_bytes=11)  # fmt: skip

    def state(self) -> PipelineState:
        assert self._rank == 0, "only rank 0 knows it"
        return self._state


@pytest.fixture
def state(two_stages: Written) -> PipelineState:
    pace = Pace()
    for number in range(3):
        pace.add(Load(at_ns=number * SECOND, compute_ns=number * SECOND // 2))
        pace.add_figures(RankFigures(at_ns=number * SECOND, epoch=2, memory_bytes=1000,
                                     received={1: LinkCount(num_bytes=50 * number)}))  # fmt: skip
    seen = Overview(plan=two_stages.plan, paces={0: Pace(), 1: pace}, num_in_flight=3, num_items=42, num_lost={1: 2})
    return PipelineState.of(seen)


def samples(rank: int, state: PipelineState) -> dict[tuple[str, tuple[str, ...]], float]:
    runner: Any = Runner(rank, state)
    families = RankCollector(runner).collect()
    return {(item.name, tuple(item.labels.values())): item.value for family in families for item in family.samples}


def test_rank_0_tells_what_the_page_shows(state: PipelineState) -> None:
    found = samples(0, state)
    assert found["edgelaunch_items_total", ()] == 42
    assert found["edgelaunch_ranks_present", ()] == 2
    assert found["edgelaunch_predicted_items_per_second", ()] == state.predicted_per_s
    assert found["edgelaunch_busy_share", ("1", "host-1")] == 0.5
    assert ("edgelaunch_busy_share", ("0", "host-0")) not in found  # nothing is known yet
    assert found["edgelaunch_memory_bytes", ("1", "host-1")] == 1000
    assert found["edgelaunch_losses_total", ("1", "host-1")] == 2
    assert found["edgelaunch_link_bytes_per_second", ("host-0", "host-1", "1")] == 50


def test_another_rank_tells_of_itself_alone(state: PipelineState) -> None:
    found = samples(1, state)
    assert found["edgelaunch_stage_seconds_total", ("1", "host-1", "compute")] == 3
    assert {name for name, _ in found} == {"edgelaunch_stage_seconds_total", "edgelaunch_stage_microbatches_total",
                                           "edgelaunch_received_bytes_total", "edgelaunch_generation"}  # fmt: skip
