"""Items of any length: one graph and one shard for all of them, or fixed shapes and the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sized_models
import torch
from compiler_helpers import Compile, captured_chain
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.artifacts.equality import Flow
from edgecompile.contract.dim_rules import item_dims
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Dim, Plan
from edgecompile.execution.opened_shard import open_stage
from edgecompile.frontend.capture.dims import DimInt, Expression, fitted, map_numbers

MOST = 12
EVERY = ("Sized", "Last", "First", "Flat", "Positions", "Windowed", "Near", "Mean", "Divided", "Longer", "OnePast",
         "Countdown", "Counted", "Attended", "Overwritten")  # fmt: skip
NAMES = st.lists(st.sampled_from(["batch", "length"]), max_size=2).map(lambda names: tuple(sorted(names)))


def overrides(name: str, *more: str) -> tuple[str, ...]:
    return (
        "model=custom", f"model.build._target_=sized_models.{name}", "hosts.count=3", "schedule=even",
        *(() if any(word.startswith("microbatch=") for word in more) else ("microbatch=3",)),
        f"model.inputs={{x: {{shape: [length, {sized_models.WIDTH}], dtype: float32}}}}",
        *(() if any(word.startswith("model.dims=") for word in more) else (f"model.dims={{length: {{max: {MOST}}}}}",)),
        *more,
    )  # fmt: skip


def of_one_shape(name: str, *more: str, shape: Sequence[int] = (5, sized_models.WIDTH)) -> tuple[str, ...]:
    inputs = f"model.inputs={{x: {{shape: {list(shape)}, dtype: float32}}}}"
    return (
        "model=custom", f"model.build._target_=sized_models.{name}", "hosts.count=3", "schedule=even", inputs, *more,
    )  # fmt: skip


def run(plan: Plan, folder: Path, *values: torch.Tensor) -> Sequence[torch.Tensor]:
    with torch.no_grad():
        for stage in plan.stages:
            values = tuple(value.contiguous() for value in open_stage(stage, folder).run(*values))
    return values


@pytest.mark.parametrize("artifact", ["torchscript", "pt2"])
@pytest.mark.parametrize("name", EVERY)
def test_one_shard_takes_every_size(compile_here: Compile, tmp_path: Path, name: str, artifact: str) -> None:
    plan = compile_here(*overrides(name, f"artifact={artifact}"))
    assert {stage.artifact for stage in plan.stages} == {artifact}
    assert set(plan.model.dims) == {"batch", "length"}, plan.notes
    assert plan.version == 2
    assert len(plan.stages) == (1 if name == "Counted" else 3)  # nothing shorter than the whole item would do
    model: torch.nn.Module = getattr(sized_models, name)().eval()
    for batch in (1, 2, 3):
        for length in range(1, MOST + 1):
            items = torch.randn(batch, length, sized_models.WIDTH)
            (found,) = run(plan, tmp_path / "outputs", items)
            with torch.no_grad():
                torch.testing.assert_close(found, model(items), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["Longer", "OnePast"])
@pytest.mark.parametrize("most", [3, 4, 6])
def test_few_extents_tell_lengths_from_batches(compile_here: Compile, tmp_path: Path, name: str, most: int) -> None:
    plan = compile_here(*overrides(name, f"model.dims={{length: {{max: {most}}}}}", f"microbatch={most + 1}"))
    items = torch.randn(2, most - 1, sized_models.WIDTH)
    values: Sequence[torch.Tensor] = (items,)
    for stage in plan.stages:
        values = [value.contiguous() for value in open_stage(stage, tmp_path / "outputs").run(*values)]
        sizes = {"batch": 2, "length": most - 1}
        assert [tuple(value.shape) for value in values] == [spec.shape_at(sizes) for spec in stage.outputs]
    with torch.no_grad():
        torch.testing.assert_close(values[0], getattr(sized_models, name)().eval()(items))


@pytest.mark.parametrize(
    ("name", "may_share"),
    [("Sized", True), ("First", True), ("Windowed", True), ("Last", False), ("Mean", False), ("Highest", False),
     ("FirstFour", False)],
)  # fmt: skip
def test_items_share_a_message_where_padding_changes_nothing(compile_here: Compile, name: str, may_share: bool) -> None:
    plan = compile_here(*overrides(name, "model.dims={length: {max: 40}}"))
    assert bool(plan.model.padding) is may_share
    assert any("never share a message" in note for note in plan.notes) is not may_share


@pytest.mark.parametrize(
    ("name", "more", "reason"),
    [
        ("Fewer", (), "length) != 1"),
        ("Halves", (), "length // 2"),
        ("Branching", (), "with model.dims.length.min=6 it would be"),
        ("Sized", ("capture=symbolic_trace",), "capture=symbolic_trace writes shapes down"),
    ],
)
def test_what_cannot_vary_keeps_its_shapes_and_says_why(
    compile_here: Compile, name: str, more: tuple[str, ...], reason: str
) -> None:
    plan = compile_here(*overrides(name, *more))
    assert not plan.model.dims
    assert plan.inputs[0].shape == (3, MOST, sized_models.WIDTH)
    assert any(note.startswith("every item is padded to length 12: ") and reason in note for note in plan.notes)


def test_a_model_of_longer_items_only_takes_no_shorter_ones(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*overrides("Branching", "model.dims={length: {min: 6, max: 12}}"))
    assert plan.model.dims["length"].min == 6
    assert not plan.model.padding, "what is shorter would be padded to 6, where the model takes another way"
    items = torch.randn(2, 6, sized_models.WIDTH)
    (found,) = run(plan, tmp_path / "outputs", items)
    with torch.no_grad():
        torch.testing.assert_close(found, sized_models.Branching().eval()(items))


def test_a_wire_of_half_precision_takes_every_size(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*overrides("Sized", "wire=bf16"))
    assert plan.stages[0].outputs[0].dtype == "bfloat16"
    items = torch.randn(2, 5, sized_models.WIDTH)
    (found,) = run(plan, tmp_path / "outputs", items)
    with torch.no_grad():
        torch.testing.assert_close(found, sized_models.Sized().eval()(items), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("scale", ["item", "channel"])
@pytest.mark.parametrize("wire", ["int8", "int6", "int4", "int2"])
def test_integer_wires_take_every_size(compile_here: Compile, tmp_path: Path, wire: str, scale: str) -> None:
    """An item's codes follow from its own length alone, so it comes out the same whatever it travels with."""
    plan = compile_here(*overrides("Sized", f"wire={wire}", f"wire.scale={scale}", "wire.max_error=9"))
    assert set(plan.model.dims) == {"batch", "length"}, plan.notes
    assert not plan.model.padding
    assert any(f"never share a message: wire={wire} scales all positions" in note for note in plan.notes)
    codes, scales = plan.stages[0].outputs[:2]
    assert codes.dtype == "uint8"
    assert codes.dims == ("batch", f"{codes.shape[1] // MOST}*length")
    groups = (
        sized_models.WIDTH if scale == "channel" and wire in ("int8", "int6") else 1
    )  # with less they outweigh codes
    assert (scales.dims, scales.shape[2]) == (("batch", None, None), groups)
    for stage in plan.stages:
        assert stage.weights, "a weight is no constant, since it might be written to"
    for length in (1, 2, 7, MOST):
        items = torch.randn(3, length, sized_models.WIDTH)
        values: Sequence[torch.Tensor] = (items,)
        for stage in plan.stages:
            values = [value.contiguous() for value in open_stage(stage, tmp_path / "outputs").run(*values)]
            sizes = {"batch": 3, "length": length}
            assert [tuple(value.shape) for value in values] == [spec.shape_at(sizes) for spec in stage.outputs]
        for row in range(3):
            (alone,) = run(plan, tmp_path / "outputs", items[row : row + 1])
            torch.testing.assert_close(values[0][row], alone[0], atol=1e-5, rtol=1e-4)
        with torch.no_grad():
            wanted = sized_models.Sized().eval()(items)
        if wire == "int8":
            torch.testing.assert_close(values[0], wanted, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("wire", ["int8", "int6", "int4", "int2"])
def test_integer_wires_take_any_number_of_items(compile_here: Compile, tmp_path: Path, wire: str) -> None:
    """Of five positions: a number of codes that fills no whole bytes is no obstacle where it is always the same."""
    plan = compile_here(*of_one_shape("Narrow", "microbatch=3", f"wire={wire}", "wire.max_error=9",
                                      shape=[5, 3]))  # fmt: skip
    assert set(plan.model.dims) == {"batch"}
    assert not any("share" in note or "filled" in note for note in plan.notes)
    items = torch.randn(3, 5, 3)
    (together,) = run(plan, tmp_path / "outputs", items)
    for row in range(3):
        (alone,) = run(plan, tmp_path / "outputs", items[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-4)


def test_codes_that_fill_no_whole_bytes_travel_as_they_are(compile_here: Compile, tmp_path: Path) -> None:
    """Their bytes would have to be rounded up, by the length: three channels of four bits each."""
    dims = "model.inputs={x: {shape: [length, 3], dtype: float32}}"
    words = [word for word in overrides("Narrow", "wire=int4", "wire.max_error=9") if not word.startswith("model.inp")]
    plan = compile_here(*words, dims)
    assert set(plan.model.dims) == {"batch", "length"}
    assert not plan.lossy
    items = torch.randn(2, 7, 3)
    (found,) = run(plan, tmp_path / "outputs", items)
    with torch.no_grad():
        torch.testing.assert_close(found, sized_models.Narrow().eval()(items))


def test_a_lossy_wire_may_turn_decisions_at_other_sizes_too(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*overrides("Classes", "wire=bf16", "wire.max_error=1"))
    assert plan.model.dims, plan.notes
    items = torch.randn(2, 5, sized_models.WIDTH)
    found, _ = run(plan, tmp_path / "outputs", items)
    with torch.no_grad():
        torch.testing.assert_close(found, sized_models.Classes().eval()(items)[0], atol=0.1, rtol=0.05)


def test_a_workload_has_costs_where_no_cut_can_be(compile_here: Compile, tmp_path: Path) -> None:
    dims = "model.dims={length: {min: 3, max: 12}}"
    plan = compile_here(*overrides("Shorter", dims, "workload={length: [4]}", "hosts.count=2"))
    assert plan.workload is not None, plan.notes
    assert not all(unit.cuttable for unit in plan.units)
    items = torch.randn(2, 5, sized_models.WIDTH)
    (found,) = run(plan, tmp_path / "outputs", items)
    with torch.no_grad():
        torch.testing.assert_close(found, sized_models.Shorter().eval()(items))


def test_fallbacks_and_the_unsplit_model_take_every_size(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*overrides("Positions", "contingency=1", "reference=true"))
    items = torch.randn(3, 7, sized_models.WIDTH)
    with torch.no_grad():
        wanted = sized_models.Positions().eval()(items)
    assert len(plan.contingencies) == 2
    for lost in plan.contingencies:
        value: Any = (items,)
        for stage in lost.stages:
            value = open_stage(stage, tmp_path / "outputs").run(*value)
        torch.testing.assert_close(value[0], wanted)
    assert plan.golden.reference is not None
    (whole,) = torch.jit.load(str(tmp_path / "outputs" / plan.golden.reference))(items)
    torch.testing.assert_close(whole, wanted)


def test_a_shard_that_holds_for_one_size_is_found(compile_here: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Flow, stage: Any, what: str) -> Flow:
        found = after(self, stage, what)
        return Flow(
            batches=found.batches, rows=found.rows, lossy=found.lossy,
            others=tuple(tuple(part + 1 for part in message) for message in found.others),
        )  # fmt: skip

    after = Flow.through
    monkeypatch.setattr(Flow, "through", wrong)
    with pytest.raises(AssertionError, match="differs from the model's at"):
        compile_here(*overrides("Sized"))


def test_a_model_that_keeps_what_it_saw_is_still_refused(compile_here: Compile) -> None:
    """The runs at other sizes leave nothing behind that hides it."""
    with pytest.raises(UserError, match="keeps state between calls"):
        compile_here("model=custom", "model.build._target_=unruly.FirstCall", "microbatch=2", "hosts.count=2",
                     "model.inputs={x: {shape: [5, 8], dtype: float32}}")  # fmt: skip


# --- the batch alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("microbatch", [2, 3, 8])
@pytest.mark.parametrize("name", ["Sized", "Flat", "Longer", "Attended", "Overwritten"])
def test_items_of_one_shape_come_in_any_number(
    compile_here: Compile, tmp_path: Path, name: str, microbatch: int
) -> None:
    plan = compile_here(*of_one_shape(name, f"microbatch={microbatch}", "contingency=1", "reference=true"))
    assert plan.model.dims == {"batch": Dim(min=1, max=microbatch)}, plan.notes
    assert (plan.version, item_dims(plan), plan.model.padding, plan.workload) == (2, (), {}, None)
    assert not plan.notes
    model: torch.nn.Module = getattr(sized_models, name)().eval()
    assert plan.golden.reference is not None
    whole = torch.jit.load(str(tmp_path / "outputs" / plan.golden.reference))
    for batch in range(1, microbatch + 1):
        items = torch.randn(batch, 5, sized_models.WIDTH)
        values: Sequence[torch.Tensor] = (items,)
        for stage in plan.stages:
            values = [value.contiguous() for value in open_stage(stage, tmp_path / "outputs").run(*values)]
            assert [tuple(value.shape) for value in values] == [
                spec.shape_at({"batch": batch}) for spec in stage.outputs
            ]
        with torch.no_grad():
            wanted = model(items)
        torch.testing.assert_close(values[0], wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(whole(items)[0], wanted, atol=1e-5, rtol=1e-4)


def test_one_item_a_message_leaves_nothing_that_varies(compile_here: Compile) -> None:
    plan = compile_here(*of_one_shape("Sized", "microbatch=1"))
    assert (plan.model.dims, plan.notes) == ({}, ())


def test_who_asks_for_fixed_shapes_is_told_nothing(compile_here: Compile) -> None:
    plan = compile_here(*of_one_shape("Sized", "microbatch=3", "capture=symbolic_trace"))
    assert (plan.model.dims, plan.notes) == ({}, ())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("InThrees", "is invalid for input of size"),
        ("TwoWays", "not the same for all of these extents: it is where 3 <= batch"),
    ],
)
def test_a_model_of_so_many_items_alone_says_why(compile_here: Compile, tmp_path: Path, name: str, reason: str) -> None:
    plan = compile_here(*of_one_shape(name, "microbatch=3"))
    assert plan.model.dims == {}
    (note,) = plan.notes
    assert note.startswith("every message is filled up to the microbatch: ")
    assert reason in note
    assert "model.dims" not in note, "the batch is none of these"
    items = torch.randn(3, 5, sized_models.WIDTH)
    (found,) = run(plan, tmp_path / "outputs", items)
    with torch.no_grad():
        torch.testing.assert_close(found, getattr(sized_models, name)().eval()(items), atol=1e-5, rtol=1e-4)


def test_the_microbatch_of_items_of_one_shape_is_chosen_too(compile_here: Compile) -> None:
    plan = compile_here(*of_one_shape("Sized", "microbatch=auto"))
    assert plan.notes[0].startswith(f"microbatch=auto took {plan.model.microbatch}, the least that comes within ")
    again = compile_here(*of_one_shape("Sized", f"microbatch={plan.model.microbatch}"))
    assert again.predicted == plan.predicted


@pytest.mark.parametrize("name", ["SoftmaxOverItems", "NormOverItems", "Similarities", "TimeFirstLSTM"])
def test_models_that_mix_items_are_given_one_at_a_time(compile_here: Compile, name: str) -> None:
    inputs = "model.inputs={x: {shape: [6, 8], dtype: float32}}"
    plan = compile_here("model=custom", f"model.build._target_=unruly.{name}", inputs, "hosts.count=1")
    assert plan.model.microbatch == 1, plan.notes


def test_models_of_fixed_shapes_are_given_one_item_and_the_plan_says_why(compile_here: Compile) -> None:
    plan = compile_here(*overrides("Sized", "microbatch=auto", "capture=symbolic_trace"))
    assert plan.model.microbatch == 1
    assert any(note.startswith("microbatch=auto took 1: capture=symbolic_trace writes") for note in plan.notes)


# --- what is counted, and what is refused ---------------------------------------------------------------------------


def test_the_largest_sizes_count_for_memory_and_the_workload_for_time(compile_here: Compile) -> None:
    short = compile_here(*overrides("Sized", "workload={length: [2]}"))
    long = compile_here(*overrides("Sized", "workload={length: [12]}"))
    neither = compile_here(*overrides("Sized"))
    assert neither.workload is None
    assert short.workload is not None
    workload = short.workload
    assert (workload.items, workload.positions, workload.useful) == (pytest.approx(3, rel=0.01), workload.items * 2, 1)
    part = short.boundaries[1].wire_bytes["fp32"] / short.boundaries[1].largest_bytes["fp32"]
    assert part == pytest.approx(2 / MOST, rel=0.01)
    assert [stage.predicted.memory_bytes for stage in short.stages] == [
        stage.predicted.memory_bytes for stage in neither.stages
    ]
    assert short.predicted.period_s < long.predicted.period_s
    assert long.predicted.period_s == pytest.approx(neither.predicted.period_s, rel=0.01)


def test_the_microbatch_is_what_is_predicted_to_be_fastest(compile_here: Compile) -> None:
    plan = compile_here(*overrides("Sized", "microbatch=auto", "workload={length: [12]}"))
    (note,) = [note for note in plan.notes if note.startswith("microbatch=auto took")]
    assert plan.model.microbatch == plan.model.dims["batch"].max > 1
    assert f"took {plan.model.microbatch}, the least" in note
    again = compile_here(*overrides("Sized", f"microbatch={plan.model.microbatch}", "workload={length: [12]}"))
    assert again.predicted == plan.predicted


def test_a_throughput_is_of_items_whatever_share_a_message(compile_here: Compile) -> None:
    plan = compile_here(*overrides("Mean", "workload={length: [1, 2, 3, 12]}", "schedule=exact",
                                   "schedule.constraints.min_throughput=100"))  # fmt: skip
    assert plan.workload is not None
    assert 1 <= plan.workload.items < 3
    assert plan.scheduling.period_limit_s == pytest.approx(plan.workload.items / 100)
    assert plan.predicted.throughput_items_per_s == pytest.approx(plan.workload.items / plan.predicted.period_s)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("microbatch=many",), "1 to 1,048,576, or auto"),
        (("workload={width: [2]}",), "one dimension of the model: length"),
        (("workload={length: []}",), "a list of extents"),
        (("workload={length: [x]}",), "extents of 1 or more"),
        (("workload={length: {4: -1}}",), "shares of 0 or more"),
        (("workload=nothing.txt",), r"nothing\.txt"),
        (("model.dims={batch: {max: 3}}",), "names of dimensions"),
        (("model.dims={length: {min: 5, max: 3}}",), "1 <= min <= max"),
        (("model.dims={length: {most: 3}}",), "unknown key most"),
        (("model.dims={width: {max: 3}}",), "one of width|length"),
        (("model.dims={}",), "'length' is not a dimension of the model: declare it: model.dims="),
    ],
)
def test_what_is_wrong_is_named(compile_here: Compile, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compile_here(*overrides("Sized", *more))


def test_the_unsplit_model_may_count_in_steps(compile_here: Compile, tmp_path: Path) -> None:
    """What a pass makes a table of, a trace cannot follow."""
    plan = compile_here(*overrides("Steps", "reference=true"))
    assert plan.model.dims, plan.notes
    assert plan.golden.reference is not None
    items = torch.randn(2, 5, sized_models.WIDTH)
    (whole,) = torch.jit.load(str(tmp_path / "outputs" / plan.golden.reference))(items)
    with torch.no_grad():
        torch.testing.assert_close(whole, sized_models.Steps().eval()(items))


def test_a_mix_is_of_one_dimension(compile_here: Compile) -> None:
    two = "model.dims={length: {max: 12}, width: {max: 4}}"
    inputs = "model.inputs={x: {shape: [length, 8], dtype: float32}, y: {shape: [width], dtype: float32}}"
    words = [word for word in overrides("Sized", two, "workload={length: [2]}") if not word.startswith("model.inputs=")]
    with pytest.raises(UserError, match="differ in length and width, and a plan is made for a mix of one alone"):
        compile_here(*words, inputs)


def test_a_model_of_one_shape_takes_no_workload(compile_here: Compile) -> None:
    with pytest.raises(UserError, match="takes items of one shape only"):
        compile_here("model=vit_digits", "workload={length: [2]}")


def test_a_graph_has_fixed_numbers_that_know_where_they_come_from() -> None:
    chain, _ = captured_chain(overrides("Flat"))
    sampling = chain.captured.sampling
    assert sampling is not None
    assert sampling.largest == {"batch": 3, "length": MOST}
    shapes = {tensor.dims for boundary in chain.boundaries for tensor in boundary.tensors}
    assert ("batch", "length", None) in shapes
    assert ("batch*length", None) in shapes


@given(st.dictionaries(NAMES, st.integers(-3, 9), max_size=3), st.dictionaries(NAMES, st.integers(-3, 9), max_size=3))
def test_expressions_compute_as_numbers_do(one: dict[tuple[str, ...], int], other: dict[tuple[str, ...], int]) -> None:
    first, second = Expression(one), Expression(other)
    for sizes in ({"batch": 3, "length": 11}, {"batch": 1, "length": 1}):
        assert (first + second).at(sizes) == first.at(sizes) + second.at(sizes)
        assert (first * second).at(sizes) == first.at(sizes) * second.at(sizes)


@given(st.integers(1, 9), NAMES)
def test_products_are_found_again(factor: int, names: tuple[str, ...]) -> None:
    wanted = Expression({names: factor})
    samples = ({"batch": 3, "length": 11}, {"batch": 5, "length": 13})
    found = fitted({tuple(sorted(sizes.items())): wanted.at(sizes) for sizes in samples})
    assert found == wanted


def test_numbers_are_changed_wherever_they_stand() -> None:
    number = DimInt(Expression({("length",): 2}), {"length": 3})
    assert number == 6
    given_ = ([number, -1], {"dim": number}, slice(0, number), 6)
    assert map_numbers(given_, lambda item: item.expression.at({"length": 5})) == (
        [10, -1], {"dim": 10}, slice(0, 10), 6,
    )  # fmt: skip
