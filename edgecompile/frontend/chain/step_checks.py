"""Invariants checked between the compiler's steps; a violation is a bug of the compiler."""

from __future__ import annotations

from itertools import pairwise

from edgecompile.contract.errors import UserError
from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.chain.recompute import sources_of
from edgecompile.frontend.chain.units import Chain
from edgecompile.planning.problem import Schedule

__all__ = ["check_captured", "check_chain", "check_outputs", "check_schedule"]


def check_captured(captured: Captured) -> None:
    """Inputs and outputs are all there, every node carries its facts, and no random operator is left."""
    nodes = list(captured.graph_module.graph.nodes)
    assert sum(node.op == "placeholder" for node in nodes) == len(captured.input_names), "inputs were lost"
    assert nodes[-1].op == "output", "the graph has no output"
    assert len(nodes[-1].args[0]) == len(captured.output_names), "outputs were lost"
    bare = [node.name for node in nodes if node.op != "output" and "facts" not in node.meta]
    assert not bare, f"nodes without facts: {bare}"


def check_chain(chain: Chain) -> None:
    """Units hold every operator once and in order, and each reads only what its boundary brings or it makes itself."""
    position = {}
    for unit in chain.units:
        assert unit.nodes, f"unit {unit.index} is empty"
        for node in unit.nodes:
            assert node not in position, f"{node} is in two units"
            position[node] = unit.index
    assert len(chain.boundaries) == len(chain.units) + 1, "a boundary is missing"
    for unit, before in zip(chain.units, chain.boundaries, strict=False):
        alive = {tensor.node for tensor in before.tensors}
        for node in unit.nodes:
            for argument in node.all_input_nodes:
                outside = argument.op == "placeholder" or position.get(argument, unit.index) < unit.index
                reached = alive.issuperset(sources_of(argument))
                assert not outside or reached or not before.cuttable, f"{argument} does not reach {node}"
    for boundary in chain.boundaries[:-1]:  # a model may give one tensor as two of its outputs
        sent = [tensor.node for tensor in boundary.tensors]
        assert len(set(sent)) == len(sent), f"boundary {boundary.index} sends a tensor twice"


def check_outputs(chain: Chain, microbatch: int) -> None:
    """Raises UserError where an output's first dimension is not the microbatch: items could not be told apart."""
    for tensor in chain.boundaries[-1].tensors:
        if not tensor.shape or tensor.shape[0] != microbatch:
            raise UserError(
                f"model.output: {tensor.name!r} has the shape {list(tensor.shape)} at microbatch {microbatch}: its "
                "first dimension must be the items; choose other fields with model.output"
            )


def check_schedule(schedule: Schedule, chain: Chain, *, by_latency: bool = False, messages: int = 1) -> Schedule:
    """The schedule: its stages cover the chain without gap or overlap, each on its own host, cut where one can be.

    Args:
        by_latency: its certificate bounds the latency, and not the period.
        messages: that the latency is of.
    """
    assert schedule.stages[0].first == 0, "the first units are missing"
    assert schedule.stages[-1].last == len(chain.units) - 1, "the last units are missing"
    for before, after in pairwise(schedule.stages):
        assert after.first == before.last + 1, f"a gap or an overlap after unit {before.last}"
        assert chain.boundaries[after.first].cuttable, f"unit {after.first} cannot begin a stage"
    hosts = [stage.host for stage in schedule.stages]
    assert len(set(hosts)) == len(hosts), "a host runs two stages"
    figure, value_s = ("latency", schedule.through_s(messages)) if by_latency else ("period", schedule.period_s)
    assert schedule.certificate.lower_bound_s <= value_s * (1 + 1e-9), f"the lower bound is over the {figure}"
    return schedule
