"""What varies from item to item, as plans name it and as items have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import launch_plans
import launch_varying
import numpy as np
import pytest
import torch
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Dim, Plan, TensorSpec
from edgecompile.contract.plan_file import plan_text, read_plan, write_plan
from edgelaunch.common.varying import Varying, fill_row, fits, shape_words
from edgelaunch.inputs.fitting import fit


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return launch_varying.texts(tmp_path_factory.mktemp("plan"), lengths=(4, 24)).plan


def test_a_plan_reads_as_it_was_written(plan: Plan, tmp_path: Path) -> None:
    write_plan(plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == plan
    assert "window" not in plan_text(plan)
    changed = replace(plan, runtime=replace(plan.runtime, window=9, max_wait_s=0.0, batch_tokens=64))
    write_plan(changed, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml") == changed


def with_input(plan: Plan, *dims: str | None) -> Plan:
    largest = {name: dim.max for name, dim in plan.model.dims.items()} | {"width": 24}
    first = replace(plan.inputs[0], dims=dims)
    first = replace(first, shape=first.shape_at(largest))
    stage = replace(plan.stages[0], inputs=(first, *plan.stages[0].inputs[1:]))
    return replace(plan, inputs=(first, *plan.inputs[1:]), stages=(stage, *plan.stages[1:]))


def with_dims(plan: Plan, **dims: Dim) -> Plan:
    return replace(plan, model=replace(plan.model, dims={**plan.model.dims, **dims}))


def with_runtime(plan: Plan, **values: Any) -> Plan:
    return replace(plan, runtime=replace(plan.runtime, **values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: with_input(plan, "length", "length"), "dims of ids: expected batch as the first"),
        (lambda plan: with_input(plan, "batch", "batch*length"), "dims of ids: expected batch as the first alone"),
        (lambda plan: with_input(plan, "batch", "length*length"), "one dimension an axis of an input"),
        (lambda plan: with_input(plan, "batch", "width"), "'width' for inputs.0.dims"),
        (lambda plan: with_dims(plan, **{f"d{number}": Dim(min=1, max=2) for number in range(7)}), "at most 8"),
        (lambda plan: with_dims(plan, length=Dim(min=0, max=24)), "1 <= min <= max"),
        (lambda plan: with_dims(plan, batch=Dim(min=1, max=9)), "with the microbatch as its max"),
        (lambda plan: with_runtime(plan, window=0), "0 for runtime.window: expected 1 to 1024"),
        (lambda plan: with_runtime(plan, batch_tokens=0), "0 for runtime.batch_tokens"),
        (lambda plan: with_runtime(plan, max_wait_s=-1.0), "runtime.max_wait_s"),
    ],
)
def test_a_broken_rule_is_named(plan: Plan, tmp_path: Path, change: Callable[[Plan], Plan], message: str) -> None:
    launch_plans.save(Written(tmp_path / "plan.yaml", change(plan), [], 4))
    with pytest.raises(UserError, match=message):
        read_plan(tmp_path / "plan.yaml")


def test_extents_and_sizes(plan: Plan) -> None:
    varying = Varying(plan)
    item = {"ids": np.zeros(3), "mask": np.zeros(3)}
    assert varying.names == ("length",)
    assert varying.extents(item) == (3,)
    assert varying.sizes([(3,)]) == (1, 4)
    assert varying.sizes([(3,), (17,), (5,)]) == (3, 17)
    with pytest.raises(UserError, match=r"x: the inputs differ in their length: ids \(3,\), mask \(4,\)"):
        varying.check({**item, "mask": np.zeros(4)}, "x")
    tokens = next(spec for spec in plan.outputs if spec.name == "tokens")
    assert varying.cut(tokens, torch.zeros(24, 3), (5,)).shape == (5, 3)


def test_lengths_that_differ_share_no_message_where_an_input_has_no_padding(plan: Plan) -> None:
    assert Varying(plan).may_differ == (True,)
    assert Varying(plan).ranges == {"length": (1, 24)}
    half = Varying(replace(plan, model=replace(plan.model, padding={"ids": 0.0})))
    assert half.may_differ == (False,)
    assert half.ranges == {"length": (4, 24)}


def test_a_plan_of_fixed_shapes_has_no_extents(two_stages: Written) -> None:
    varying = Varying(two_stages.plan)
    assert (varying.names, varying.ranges, varying.extents({"x": np.zeros(4)})) == ((), {}, ())
    assert varying.sizes([(), ()]) == ()


def test_shapes_that_fit() -> None:
    spec = TensorSpec(name="x", shape=(2, 3, 16), dtype="float32", dims=("batch", None, "2*length"))
    ranges = {"length": (2, 8)}
    assert [fits((3, extent), spec, ranges) for extent in (2, 4, 5, 16, 18)] == [False, True, False, True, False]
    assert not fits((2, 4), spec, ranges)
    assert not fits((4,), spec, ranges)
    assert shape_words(spec, ranges) == "(3, 4 to 16)"
    with pytest.raises(UserError, match=r"here: x is float32 \(3, 18\), the model takes float32 \(3, 4 to 16\)"):
        fit(np.zeros((3, 18), dtype=np.float32), spec, "here", ranges)


def test_a_row_is_filled_beyond_its_item() -> None:
    row = torch.full((3, 4), 9, dtype=torch.int64)
    fill_row(row, torch.ones(2, 3, dtype=torch.int64), 7.0)
    assert row.tolist() == [[1, 1, 1, 7], [1, 1, 1, 7], [7, 7, 7, 7]]
