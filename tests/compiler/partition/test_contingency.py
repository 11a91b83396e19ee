"""contingency=1: a plan for the loss of each host, its shards ready, and the losses that no plan covers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from compiler_helpers import Compile

from edgecompile.commands.compile_command import compose
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan, Stage
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution.opened_shard import open_stage

# weights of 4 MB a linear layer, so that memory can be short
WIDE = (
    "model=custom", "model.build._target_=test_contingency.wide",
    "model.inputs={input: {shape: [1000], dtype: float32}}", "hosts.count=3", "schedule=even",
    "microbatch=1",
)  # fmt: skip


def wide() -> torch.nn.Module:
    layers = [module for _ in range(6) for module in (torch.nn.Linear(1000, 1000), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers)


def run(stages: tuple[Stage, ...], folder: Path, value: torch.Tensor) -> torch.Tensor:
    values = (value,)
    for stage in stages:
        values = open_stage(stage, folder).run(*values)
    return values[0]


@pytest.mark.slow
def test_every_loss_has_a_plan_that_computes_the_same(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*WIDE, "contingency=1", "runtime.detect=3s", "runtime.rejoin=0")
    assert read_plan(tmp_path / "outputs" / "plan.yaml") == plan
    assert (plan.runtime.detect_s, plan.runtime.rejoin_s) == (3.0, 0.0)
    assert [item.lost for item in plan.contingencies] == [host.name for host in plan.hosts[1:]]
    folder, value = tmp_path / "outputs", torch.rand(1, 1000)
    expected = run(plan.stages, folder, value)
    for item in plan.contingencies:
        lost = next(host.rank for host in plan.hosts if host.name == item.lost)
        assert lost not in [stage.rank for stage in item.stages]
        assert all(after.inputs == before.outputs for before, after in pairwise(item.stages))
        assert item.certificate.gap == 0
        assert item.predicted.period_s == item.certificate.period_s
        torch.testing.assert_close(run(item.stages, folder, value), expected)
    first, second = plan.contingencies
    assert {stage.sha256 for stage in first.stages} == {stage.sha256 for stage in second.stages}, "alike hosts share"


def test_a_loss_that_no_other_hosts_can_take_over_is_reported(compile_here: Compile) -> None:
    """Six layers of 4 MB, two a host: on two hosts one of them needs three."""
    plan = compile_here(*WIDE, "contingency=1", "devices.local.runtime_memory=1MB", "hosts.members.local.memory=9.5MB",
                        "runtime.num_buffers_in=1", "runtime.num_buffers_out=1")  # fmt: skip
    assert plan.contingencies == ()
    assert len(plan.notes) == 2
    assert plan.notes[0].startswith(f"the plan cannot continue without {plan.hosts[1].name}: ")


@pytest.mark.slow
def test_the_inputs_that_are_kept_count_as_memory(compile_here: Compile) -> None:
    few: Plan = compile_here(*WIDE, "runtime.num_buffers_in=1")
    many: Plan = compile_here(*WIDE, "runtime.num_buffers_in=2")
    kept, taking = 4 * 4000, 4000  # an input for one more buffer at each of four boundaries; a buffer of results
    for rank, ends in ((0, kept + taking), (1, 0)):
        grown = many.stages[rank].predicted.memory_bytes - few.stages[rank].predicted.memory_bytes
        assert grown == 4000 + ends  # one buffer of what comes in


def test_none_where_nobody_asks(compile_here: Compile) -> None:
    plan = compile_here(*WIDE)
    assert (plan.contingencies, plan.notes) == ((), ())
    with pytest.raises(UserError, match="invalid value 2 for contingency: expected 0 to 1"):
        compose(["contingency=2"])
