"""The state that everybody is shown: hosts, links and what holds the pipeline back, as the ranks measured them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from launch_plans import Written

from edgecompile.contract.plan import Plan
from edgecompile.contract.run_record import Percentiles
from edgelaunch.common.rank_figures import LinkCount, RankFigures
from edgelaunch.control.pace import Load, Overview, Pace
from edgelaunch.control.pipeline_state import Event, PipelineState

SECOND = 10**9


def pace(busy: float, *, waits_in: float = 0.0, waits_out: float = 0.0, links: dict[int, int] | None = None,
         memory: int = 5, seconds: int = 4) -> Pace:  # fmt: skip
    """Of a rank that spends its time like this, and gets so many bytes a second over each boundary."""
    found = Pace()
    for number in range(seconds + 1):
        found.add(Load(at_ns=number * SECOND, compute_ns=round(busy * number * SECOND)))
        parts = [round(share * number * SECOND) for share in (waits_in, busy, waits_out, 0.0)]
        received = {
            boundary: LinkCount(num_bytes=each * number, busy_ns=SECOND * number // 4, timed_bytes=each * number // 2)
            for boundary, each in (links or {}).items()
        }
        found.add_figures(RankFigures(at_ns=number * SECOND, epoch=1, memory_bytes=memory, resident_bytes=2 * memory,
                                      parts_ns=tuple(parts), received=received))  # fmt: skip
    return found


def overview(plan: Plan, paces: dict[int, Pace], **values: Any) -> Overview:
    known: dict[str, Any] = {"ready": True, "epoch": 1, "num_items": 50, "items_per_s": 5.0, **values}
    return Overview(plan=plan, paces=paces, num_in_flight=3, **known)


def test_a_state_reads_back_and_outlives_versions(three_stages: Written) -> None:
    latency = Percentiles(count=4, p50_s=0.1, p95_s=0.2, p99_s=0.3, max_s=0.4)
    seen = overview(three_stages.plan, {0: pace(0.9), 1: pace(0.5, links={1: 100})}, latency=latency)
    state = PipelineState.of(seen, [Event(at=1.0, kind="rank-lost", text="rank 1 is gone", rank=1)], number=7)
    assert PipelineState.from_json(state.to_json()) == state
    values = json.loads(state.to_json())
    values["weather"] = "fair"
    values["hosts"][0]["temperature"] = 60
    assert PipelineState.from_json(json.dumps(values)) == state
    for text in ("", "7", "{}", "[1]"):
        assert PipelineState.from_json(text) is None


def test_hosts_are_present_lost_awaited_or_joining(three_stages: Written) -> None:
    seen = overview(three_stages.plan, {0: pace(0.9, memory=70)}, num_lost={1: 2}, num_joined={1: 2})
    state = PipelineState.of(seen)
    assert [host.state for host in state.hosts] == ["present", "lost", "awaited"]
    assert [host.num_lost for host in state.hosts] == [0, 2, 0]
    assert [host.num_restarts for host in state.hosts] == [0, 1, 0]
    assert state.num_present == 1
    assert (state.hosts[0].memory_bytes, state.hosts[0].resident_bytes) == (70, 140)
    assert state.hosts[0].predicted_memory_bytes == three_stages.plan.stages[0].predicted.memory_bytes
    assert state.hosts[1].memory_bytes is None
    back = PipelineState.of(replace(seen, paces={0: pace(0.9), 1: pace(0.1), 2: Pace()}, joining=frozenset({2})))
    assert [host.state for host in back.hosts] == ["present", "present", "joining"]


def test_a_link_is_measured_by_its_own_receiver(three_stages: Written) -> None:
    """Rank 0 takes the results: what it receives is not what the way to stage 0 carries."""
    plan = three_stages.plan
    paces = {0: pace(0.1, links={3: 300}), 1: pace(0.1, links={1: 100}), 2: pace(0.1, links={2: 200})}
    links = {link.boundary: link for link in PipelineState.of(overview(plan, paces)).links}
    assert {number: link.bytes_per_s for number, link in links.items()} == {1: 100.0, 2: 200.0, 3: 300.0}
    assert (links[3].source, links[3].destination) == (2, 0)
    assert links[1].busy == pytest.approx(0.5)  # half of the bytes took a quarter of the time
    assert PipelineState.of(overview(plan, {0: paces[0]})).links[0].bytes_per_s is None


def test_what_holds_it_back(three_stages: Written) -> None:
    plan = three_stages.plan
    stage = PipelineState.of(overview(plan, {0: pace(0.2), 1: pace(0.95), 2: pace(0.3)}))
    assert stage.bottleneck == "stage 1 on host-1 (95% busy)"
    assert [host.bottleneck for host in stage.hosts] == [False, True, False]
    waits = {0: pace(0.1, waits_out=0.9), 1: pace(0.2, waits_in=0.8, links={1: 9}),
             2: pace(0.2, waits_in=0.8, links={2: 9})}  # fmt: skip
    link = PipelineState.of(overview(plan, waits))
    assert link.bottleneck == "link host-0 -> host-1 (80% busy)"
    assert [item.bottleneck for item in link.links] == [True, False, False]
    assert not any(host.bottleneck for host in link.hosts)
    assert PipelineState.of(overview(plan, {0: pace(0.1), 1: pace(0.1)}, feeding=0.9)).bottleneck.startswith(
        "the input"
    )
    idle = PipelineState.of(overview(plan, {0: pace(0.1), 1: pace(0.1)}))
    assert idle.bottleneck == ""
    assert PipelineState.of(overview(plan, {0: pace(0.95)}, ready=False)).bottleneck == ""


def test_links_of_another_epoch_begin_anew() -> None:
    found = pace(0.5, links={1: 100})
    assert found.link(1) is not None
    found.add_figures(RankFigures(at_ns=9 * SECOND, epoch=2, received={2: LinkCount(num_bytes=5)}))
    assert found.link(1) is None
    assert found.link(2) is None
    found.add_figures(RankFigures(at_ns=10 * SECOND, epoch=2, received={2: LinkCount(num_bytes=25)}))
    second = found.link(2)
    assert second is not None
    assert (second.bytes_per_s, second.busy) == (20.0, None)


def test_who_asks_often_sees_no_shorter_time() -> None:
    often = Pace()
    for tenth in range(40):
        often.add(Load(at_ns=tenth * SECOND // 10, compute_ns=tenth * SECOND // 20))
    assert often.busy == pytest.approx(0.5)
    assert often._seen[-1].at_ns - often._seen[0].at_ns >= 3 * SECOND
