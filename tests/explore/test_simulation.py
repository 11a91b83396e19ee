"""The simulation against known cases, and against an independent one, process by process."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from explore_plans import make_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_simulator import Pipeline, World

from edgecompile import _native_sched as native
from edgecompile.contract.cluster import Network
from edgecompile.contract.plan import Plan
from edgecompile.explore.timeline.simulation import Options, Simulation, simulate
from edgecompile.planning.from_plan import as_planned


def play(plan: Plan, **options: object) -> Simulation:
    problem, schedule = as_planned(plan)
    return simulate(problem, schedule, plan.runtime, Options(**{"num_microbatches": 400} | options))  # type: ignore[arg-type]


def line(seconds: list[float], sizes: list[int], **options: object) -> Plan:
    """One stage a unit, all on hosts of one kind; the first is the data host's."""
    hosts = [(f"h{index}", "box") for index in range(len(seconds))]
    assignments = [(index, index, index) for index in range(len(seconds))]
    return make_plan({"box": seconds}, hosts, sizes, assignments=assignments, **options)  # type: ignore[arg-type]


# --- known cases -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=6),
    st.integers(2, 4),
    st.integers(2, 4),
)
@settings(max_examples=80, deadline=None)
def test_two_buffers_reach_the_predicted_period_and_latency(
    figures: list[tuple[int, int]], buffers_in: int, buffers_out: int
) -> None:
    seconds = [compute / 100 for compute, _ in figures]
    sizes = [0, *(size * 10_000 for _, size in figures[:-1]), 0]
    plan = line(seconds, sizes, buffers=(buffers_in, buffers_out))
    found = play(plan)
    assert found.period_s == pytest.approx(plan.predicted.period_s, rel=1e-9)
    assert found.fill_s == pytest.approx(plan.predicted.latency_s, rel=1e-9)
    busiest = max([use.busy for use in found.stages] + [use.busy for use in found.links])
    assert busiest == pytest.approx(1.0, abs=0.05)
    for use in found.stages:
        assert use.busy + use.bubble == pytest.approx(1.0)


def test_latency_of_links_delays_and_does_not_slow() -> None:
    plan = line([0.1, 0.1], [0, 50_000, 0], network=Network(model="host", latency_s=0.01))
    found = play(plan)
    assert found.period_s == pytest.approx(0.1)
    assert found.fill_s == pytest.approx(0.1 + 0.05 + 0.01 + 0.1 + 0.01)


def test_one_buffer_makes_transfer_and_compute_take_turns() -> None:
    assert play(line([0.1, 0.1], [0, 200_000, 0], buffers=(1, 1))).period_s == pytest.approx(0.3)
    assert play(line([0.1, 0.1], [0, 200_000, 0], buffers=(2, 1))).period_s == pytest.approx(0.2)


def test_the_data_host_in_the_middle_shares_its_interface() -> None:
    """It sends inputs and its own stage's output, and takes its stage's input and the results."""
    hosts = [("data", "box"), ("a", "box"), ("b", "box")]
    sizes = [100_000, 200_000, 300_000, 50_000]
    plan = make_plan({"box": [0.01] * 3}, hosts, sizes, assignments=[(0, 0, 1), (1, 1, 0), (2, 2, 2)])
    assert plan.predicted.period_s == pytest.approx(0.4)  # inputs and the second cut leave by one interface
    found = play(plan)
    assert found.period_s == pytest.approx(0.4, rel=2e-3)
    assert {use.what: round(use.busy, 2) for use in found.shared} == {"sends": 1.0, "receives": 0.62}
    slow = play(make_plan({"box": [0.01] * 3}, hosts, sizes, assignments=[(0, 0, 1), (1, 1, 0), (2, 2, 2)],
                          rates={"b": 0.5e6}))  # fmt: skip
    assert slow.period_s == pytest.approx(0.6, rel=2e-3)  # to b alone 0.6; the rest of the interface is free for inputs


def test_one_channel_carries_everything() -> None:
    network = Network(model="shared", bandwidth_bytes_per_s=1e6)
    plan = line([0.01] * 3, [0, 200_000, 100_000, 50_000], network=network)
    assert plan.predicted.period_s == pytest.approx(0.35)
    found = play(plan)
    assert found.period_s == pytest.approx(0.35, rel=1e-3)
    assert found.shared[0].busy == pytest.approx(1.0, rel=1e-3)


def test_items_that_come_slowly_wait_for_nothing() -> None:
    plan = line([0.1, 0.2], [0, 10_000, 0], microbatch=2)
    found = play(plan, rate_items_per_s=4.0, microbatch=2)
    assert found.throughput_items_per_s == pytest.approx(4.0)
    alone = plan.predicted.latency_s
    assert found.latency.max_s == pytest.approx(alone + 0.25)  # the first of two items waits for the second
    assert found.latency.p50_s == pytest.approx(alone)
    assert play(plan, rate_items_per_s=40.0, microbatch=2).throughput_items_per_s == pytest.approx(10.0)


def test_jitter_slows_and_the_seed_decides() -> None:
    plan = line([0.1] * 4, [0, 1000, 1000, 1000, 0])
    calm, shaken = play(plan), play(plan, jitter=1.5, num_microbatches=4000)
    assert shaken.period_s is not None
    assert calm.period_s is not None
    assert calm.period_s * 1.05 < shaken.period_s < calm.period_s * 1.6
    assert play(plan, jitter=1.5, seed=1) == play(plan, jitter=1.5, seed=1)
    assert play(plan, jitter=1.5, seed=1) != play(plan, jitter=1.5, seed=2)
    alone = play(line([0.1], [0, 0]), jitter=1.5, num_microbatches=4000)
    assert alone.period_s == pytest.approx(0.1 * math.exp((math.log(1.5) / 1.645) ** 2 / 2), rel=0.02)


def test_warm_up_slows_the_start_only() -> None:
    plan = line([0.1, 0.1], [0, 1000, 0])
    slow = play(plan, num_warm_up=5, warm_up_factor=3.0)
    assert slow.period_s == pytest.approx(0.1)
    assert slow.fill_s == pytest.approx(0.6 + 0.001)
    assert slow.total_s == pytest.approx(play(plan).total_s + 5 * 0.2 + 0.2, abs=0.01)


def test_a_single_microbatch_has_no_period() -> None:
    found = play(line([0.1, 0.1], [0, 1000, 0]), num_microbatches=1)
    assert found.period_s is None
    assert found.total_s == pytest.approx(0.201)


# --- the independent simulation --------------------------------------------------------------------------------------

quarters = st.integers(0, 24).map(lambda value: value / 4)


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    stages = draw(st.integers(1, 5))
    edges = stages + 1

    def times(count: int) -> list[float]:
        return draw(st.lists(quarters, min_size=count, max_size=count))

    local = draw(st.lists(st.sampled_from([False, False, False, True]), min_size=edges, max_size=edges))
    remote = [boundary for boundary in range(edges) if not local[boundary]]
    members = draw(st.lists(st.sampled_from(remote), unique=True, max_size=4)) if remote else []
    half = draw(st.integers(0, len(members)))
    share = st.sampled_from([1.0, 1.0, 0.75, 0.5, 0.2])
    whole = draw(st.booleans())
    groups = [{b: 1.0 if whole else draw(share) for b in group} for group in (members[:half], members[half:]) if group]
    gaps = draw(st.one_of(st.just([]), st.lists(quarters, min_size=60, max_size=60)))
    return Pipeline(
        compute_s=times(stages),
        transfer_s=times(edges),
        latency_s=times(edges),
        local=local,
        shared=groups,
        buffers_in=draw(st.integers(1, 3)),
        buffers_out=draw(st.integers(1, 3)),
        ready_s=[sum(gaps[:index]) for index in range(len(gaps))],
        factor=native.jitter,
        seed=draw(st.integers(0, 2**40)),
        sigma=draw(st.sampled_from([0.0, 0.3])),
    )


@pytest.mark.slow
@given(pipelines(), st.integers(1, 60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_it_equals_an_independent_simulation(pipeline: Pipeline, count: int, by_events: bool) -> None:
    slow = World(replace(pipeline, ready_s=pipeline.ready_s[:count]), count).run()
    spec = native.PipelineSpec()
    spec.compute_s, spec.transfer_s, spec.latency_s = pipeline.compute_s, pipeline.transfer_s, pipeline.latency_s
    spec.local = [int(inside) for inside in pipeline.local]
    groups = []
    for shares in pipeline.shared:
        group = native.SharedSpec()
        group.boundaries, group.share = list(shares), list(shares.values())
        groups.append(group)
    spec.shared = groups
    spec.num_buffers_in, spec.num_buffers_out = pipeline.buffers_in, pipeline.buffers_out
    spec.num_microbatches, spec.ready_s = count, pipeline.ready_s[:count]
    spec.seed, spec.sigma, spec.by_events = pipeline.seed, pipeline.sigma, by_events
    fast = native.simulate(spec)
    close = {"rel": 1e-9, "abs": 1e-6}
    assert fast.fed_s == pytest.approx(slow.fed, **close)
    assert fast.result_s == pytest.approx(slow.results, **close)
    assert fast.busy_s == pytest.approx(slow.busy, **close)
    assert fast.starved_s == pytest.approx(slow.starved, **close)
    assert fast.blocked_s == pytest.approx(slow.blocked, **close)
    for boundary, inside in enumerate(pipeline.local):
        if not inside:
            assert fast.sending_s[boundary] == pytest.approx(slow.sending[boundary], **close)
