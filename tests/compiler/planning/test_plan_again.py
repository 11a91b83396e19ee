"""A plan holds the problem that it answers: asking again, without the model, gives the same stages and figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecompile.commands.compile_command import compose
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.partition import stages as partition
from edgecompile.pipeline import compile_model
from edgecompile.planning.from_plan import assignments_of, problem_of
from edgecompile.planning.memory import data_host_bytes, kept_inputs_bytes
from edgecompile.planning.planning_inputs import state_problem
from edgecompile.planning.problem import Problem
from edgecompile.planning.solver import evaluate, solve
from edgecompile.terminal.console import steps

FORKED = (
    "model=custom",
    "model.build._target_=hand_written.Forked",
    "model.inputs={x: {shape: [6, 24], dtype: float32}, ids: {shape: [6], dtype: int64}}",
)
TIED = ("model=custom", "model.build._target_=hand_written.Tied", "model.inputs={ids: {shape: [7], dtype: int64}}")
SLOW = ("devices=local", "hosts.count=4", "devices.local.launch_overhead=1ms")
PAIRS = {"local-1->local-2": "20Mbps", "local-2->local-3": {"bandwidth": "9Mbps", "latency": "2ms"}}
PIN = {"2-4": ["local-3", "local-2"]}

EXACT = {
    "equal hosts": (*TIED, *SLOW),
    "mixed kinds": (*FORKED, "devices=mixed_edge", "wire=int8"),
    "unused hosts": (*TIED, "devices=jetson_cluster"),
    "pairwise": (*FORKED, *SLOW, "hosts.network.model=pairwise", "wire=fp16"),
    "one channel": (*FORKED, *SLOW, "hosts.network.model=shared", "hosts.network.bandwidth=30Mbps", "wire=int4"),
    "constraints": (*FORKED, *SLOW, "schedule.constraints.together=[['5','6']]",
                    "schedule.constraints.exclude=[local-4]",
                    "schedule.constraints.max_hosts=2", "schedule.constraints.min_throughput=1"),
    "order": (*FORKED, *SLOW, "schedule.constraints.host_order=[local-3,local-1,local-2]", "microbatch=2"),
    "latency": (*TIED, *SLOW, "schedule.objective=latency", "hosts.data_host=local-3", "runtime.num_buffers_in=3"),
}  # fmt: skip
GIVEN = {
    "even": (*FORKED, *SLOW, "schedule=even", "wire=int8"),
    "single": (*TIED, "devices=mixed_edge", "schedule=single"),
    "manual": (*FORKED, *SLOW, "schedule=manual", "schedule.cuts=[3,6]", "wire.per_cut=[int8,fp32]"),
}


def compiled(
    monkeypatch: pytest.MonkeyPatch, folder: Path, overrides: tuple[str, ...], name: str = ""
) -> tuple[Plan, Problem]:
    """The plan as it was written, and the last problem that the compiler itself stated."""
    stated: list[Problem] = []

    def listen(*arguments: Any) -> Problem:
        stated.append(state_problem(*arguments))
        return stated[-1]

    monkeypatch.setattr(partition, "state_problem", listen)
    conf = compose([*overrides, f"output_dir={folder}"])
    if name == "pairwise":
        conf.hosts.network.pairs = PAIRS
    if name == "constraints":
        conf.schedule.constraints.pin = PIN
    compile_model(conf, steps)
    return read_plan(folder / "plan.yaml"), stated[-1]


@pytest.mark.parametrize("name", EXACT)
def test_solving_again_gives_the_same_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    plan, stated = compiled(monkeypatch, tmp_path, EXACT[name], name)
    assert problem_of(plan) == stated
    again = solve(problem_of(plan))
    assert [(s.first, s.last) for s in again.stages] == [stage.units for stage in plan.stages]
    assert [plan.cluster[s.host] for s in again.stages] == [plan.hosts[stage.rank].name for stage in plan.stages]
    assert again.period_s == plan.predicted.period_s
    assert again.latency_s == plan.predicted.latency_s
    own = {stage.rank: stage.predicted.memory_bytes for stage in plan.stages}
    if 0 in own:
        first, last = (plan.stages[end].rank == 0 for end in (0, -1))
        sizes = [sum(spec.num_bytes for spec in specs) for specs in (plan.inputs, plan.outputs)]
        own[0] -= data_host_bytes(plan.runtime, *sizes, first=first, last=last)
        own[0] -= kept_inputs_bytes(plan.runtime, sizes[0], len(plan.stages))
    assert [s.memory_bytes for s in again.stages] == list(own.values())
    assert problem_of(replace(plan, runtime=replace(plan.runtime, num_buffers_in=9))) != stated


@pytest.mark.slow
@pytest.mark.parametrize("name", GIVEN)
def test_given_stages_cost_the_same_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    plan, _ = compiled(monkeypatch, tmp_path, GIVEN[name])
    again = evaluate(problem_of(plan), assignments_of(plan))
    assert (again.period_s, again.latency_s) == (plan.predicted.period_s, plan.predicted.latency_s)
    assert solve(problem_of(plan)).period_s <= plan.predicted.period_s


@pytest.mark.slow
def test_another_wire_format_can_be_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan, _ = compiled(monkeypatch, tmp_path, (*FORKED, *SLOW))
    _, stated = compiled(monkeypatch, tmp_path, (*FORKED, *SLOW, "wire=int4"))
    assert problem_of(plan, "int4") == stated
