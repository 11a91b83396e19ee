"""Each rule of step_checks.py, broken once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from compiler_helpers import chain_of, hand_written, schedule_of
from torch import fx

from edgecompile.contract.errors import UserError
from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.chain.step_checks import check_captured, check_chain, check_outputs, check_schedule
from edgecompile.frontend.chain.units import Boundary, Chain
from edgecompile.planning.problem import Schedule

FORKED = (*hand_written("Forked"), "microbatch=2")


@pytest.fixture
def chain() -> Chain:
    return chain_of(*FORKED)


@pytest.fixture
def schedule() -> Schedule:
    return schedule_of(FORKED, "schedule=manual", "schedule.cuts=[4,9]", "hosts.count=3")


def without_facts(captured: Captured) -> Captured:
    copy = fx.GraphModule(captured.graph_module, fx.Graph())
    copies: dict[fx.Node, fx.Node] = {}
    for node in captured.graph_module.graph.nodes:
        copies[node] = copy.graph.node_copy(node, lambda argument: copies[argument])
        copies[node].meta = {}
    return replace(captured, graph_module=copy)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda captured: replace(captured, input_names=captured.input_names[1:]), "inputs were lost"),
        (lambda captured: replace(captured, output_names=captured.output_names[1:]), "outputs were lost"),
        (without_facts, "nodes without facts: .*'gelu'"),
    ],
)
def test_captured(chain: Chain, spoil: Callable[[Captured], Captured], message: str) -> None:
    check_captured(chain.captured)
    with pytest.raises(AssertionError, match=message):
        check_captured(spoil(chain.captured))


def with_boundary(chain: Chain, index: int, change: Callable[[Boundary], Boundary]) -> Chain:
    boundaries = list(chain.boundaries)
    boundaries[index] = change(boundaries[index])
    return replace(chain, boundaries=tuple(boundaries))


def twice(boundary: Boundary) -> Boundary:
    return replace(boundary, tensors=(*boundary.tensors, boundary.tensors[0]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda chain: replace(chain, units=(replace(chain.units[0], nodes=()), *chain.units[1:])), "unit 0 is empty"),
        (lambda chain: replace(chain, units=(chain.units[0], *chain.units)), "is in two units"),
        (lambda chain: replace(chain, boundaries=chain.boundaries[1:]), "a boundary is missing"),
        (
            lambda chain: with_boundary(chain, 3, lambda boundary: replace(boundary, tensors=())),
            "does not reach",
        ),
        (lambda chain: with_boundary(chain, 2, twice), "boundary 2 sends a tensor twice"),
    ],
)
def test_chain(chain: Chain, spoil: Callable[[Chain], Chain], message: str) -> None:
    check_chain(chain)
    with pytest.raises(AssertionError, match=message):
        check_chain(spoil(chain))


def test_one_tensor_may_be_two_outputs(chain: Chain) -> None:
    check_chain(with_boundary(chain, -1, twice))


def test_outputs(chain: Chain) -> None:
    check_outputs(chain, 2)
    with pytest.raises(UserError, match=r"model\.output: 'scores' has the shape \[2, 5\] at microbatch 3"):
        check_outputs(chain, 3)


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (0, {"first": 1}, "the first units are missing"),
        (2, {"last": 12}, "the last units are missing"),
        (1, {"first": 5}, "a gap or an overlap after unit 3"),
        (1, {"last": 9}, "a gap or an overlap after unit 9"),
        (1, {"host": 0}, "a host runs two stages"),
    ],
)
def test_schedule(chain: Chain, schedule: Schedule, stage: int, changes: dict[str, int], message: str) -> None:
    check_schedule(schedule, chain)
    stages = list(schedule.stages)
    stages[stage] = replace(stages[stage], **changes)
    with pytest.raises(AssertionError, match=message):
        check_schedule(replace(schedule, stages=tuple(stages)), chain)


def test_schedule_of_impossible_cuts_and_bounds(chain: Chain, schedule: Schedule) -> None:
    with pytest.raises(AssertionError, match="unit 4 cannot begin a stage"):
        check_schedule(schedule, with_boundary(chain, 4, lambda boundary: replace(boundary, cuttable=False)))
    certificate = replace(schedule.certificate, lower_bound_s=2 * schedule.period_s)
    with pytest.raises(AssertionError, match="the lower bound is over the period"):
        check_schedule(replace(schedule, certificate=certificate), chain)
    bounded = replace(schedule, certificate=certificate, latency_s=3 * schedule.period_s)
    assert check_schedule(bounded, chain, by_latency=True) is bounded
    with pytest.raises(AssertionError, match="the lower bound is over the latency"):
        check_schedule(replace(bounded, latency_s=schedule.period_s), chain, by_latency=True)
