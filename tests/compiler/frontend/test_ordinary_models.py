"""What ordinary models do that once ended in a traceback or a wrong result: each compiles at every cut and is equal.

compile_model() compares with the eager model in float64; there are as many stages as boundaries that can be cut.
"""

from __future__ import annotations

import ordinary
import pytest
import torch
from compiler_helpers import Compile, captured_chain

from edgecompile.artifacts.shards import RAW, live_module, stage_module
from edgecompile.measure.bench import Bench
from edgecompile.measure.stretches import atoms_of
from edgecompile.wire.formats import is_encoded, wire_format, wire_tensors

pytestmark = pytest.mark.slow

X = "x: {shape: [%d, 16], dtype: float32}"
MASKED = f"{X}, mask: {{shape: [%d], dtype: int64}}"
CASES = [
    ("LastSteps", 4), ("Spectrum", 2), ("Rotary", 2), ("Windows", 2), ("Eighths", 2), ("Scaled", 1), ("TimeFirst", 3),
    ("Decomposed", 2), ("Routed", 2), ("InPlaceLayers", 2), ("Square", 4), ("OuterMask", 2),
]  # fmt: skip
RAW_INT8 = wire_format("int8")


def model(name: str, steps: int = 6) -> tuple[str, ...]:
    inputs = MASKED % (steps, steps) if name == "OuterMask" else X % (4 if name == "Square" else steps)
    return "model=custom", f"model.build._target_=ordinary.{name}", f"model.inputs={{{inputs}}}"


@pytest.mark.parametrize(("name", "microbatch"), CASES)
def test_every_cut_of_an_ordinary_model(compile_here: Compile, name: str, microbatch: int) -> None:
    plan = compile_here(*model(name), "schedule=even", "hosts.count=99", f"microbatch={microbatch}", "reference=true")
    assert plan.golden.reference is not None
    assert len(plan.stages) == 1 + sum(unit.cuttable for unit in plan.units[1:])
    assert all(tolerance < 1e-3 for tolerance in plan.golden.tolerance.values())


@pytest.mark.parametrize("name", ["InPlaceLayers", "Spectrum", "Routed"])
def test_symbolic_trace_of_ordinary_models(compile_here: Compile, name: str) -> None:
    """Where operators write into tensors, the other names of these see it: `h += x` is no `h = h + x`."""
    plan = compile_here(*model(name), "schedule=even", "hosts.count=3", "microbatch=2", "capture=symbolic_trace")
    assert plan.model.capture == "symbolic_trace"
    assert all(tolerance < 1e-3 for tolerance in plan.golden.tolerance.values())


@pytest.mark.parametrize("name", ["Routed", "Decomposed"])
def test_fallbacks_and_exported_shards_see_real_activations_too(compile_here: Compile, name: str) -> None:
    plan = compile_here(
        *model(name), "schedule=even", "hosts.count=3", "microbatch=2", "contingency=1", "artifact=pt2",
    )  # fmt: skip
    assert len(plan.contingencies) == 2


@pytest.mark.parametrize("name", ["Routed", "Decomposed", "OuterMask"])
def test_every_unit_can_be_measured(name: str) -> None:
    """edgeprofile makes tensors up: indices and matrices must be such as the model computes."""
    chain, examples = captured_chain(model(name), microbatch=2)
    for atom in atoms_of(chain):
        bench = Bench(chain, atom.first, atom.last, (atom,), examples, "cpu", "never")
        assert len(bench.run_atoms()) == 1
        assert bench.run_whole().wall_s > 0


def test_complex_numbers_and_eighths_cross_no_cut() -> None:
    for name in ("Spectrum", "Rotary", "Eighths"):
        chain, _ = captured_chain(model(name), microbatch=2)
        sent = {tensor.dtype for boundary in chain.boundaries if boundary.cuttable for tensor in boundary.tensors}
        assert sent == {"float32"}
        assert not all(boundary.cuttable for boundary in chain.boundaries)


def test_a_mask_of_pairs_travels_as_the_mask_of_steps() -> None:
    """Also where several views of it and what was computed of them are alive; the receiver makes them again."""
    chain, examples = captured_chain(model("OuterMask", steps=40), microbatch=2)
    crossing = [{tensor.name for tensor in boundary.tensors} for boundary in chain.boundaries[1:-1]]
    assert "mask" in set.union(*crossing)
    masks = [tensor for boundary in chain.boundaries for tensor in boundary.tensors if tensor.shape == (2, 1, 40, 40)]
    assert masks == []
    index = next(boundary.index for boundary in chain.boundaries if boundary.live != boundary.tensors)
    with torch.no_grad():
        sent = stage_module(chain, 0, index - 1)(*examples)
        alive = live_module(chain, index)(*sent)
        expected = stage_module(chain, 0, index - 1, live=True)(*examples)
    assert all(torch.equal(got, wanted) for got, wanted in zip(alive, expected, strict=True))


def test_what_is_computed_again_is_computed_of_exact_values() -> None:
    """Views of a tensor lose no more than the tensor; of a comparison or a large factor nobody can tell."""
    floats = tuple(word.replace("int64", "float32") for word in model("OuterMask"))
    chain, _ = captured_chain(floats, microbatch=2)
    crossing = [tensor for boundary in chain.boundaries[1:-1] for tensor in boundary.tensors]
    masks = [tensor for tensor in crossing if tensor.name == "mask"]
    assert masks
    assert all(tensor.exact and not is_encoded(tensor, RAW_INT8) for tensor in masks)
    assert any(is_encoded(tensor, RAW_INT8) for tensor in crossing)


@pytest.mark.parametrize("steps", [3, 6])
def test_items_in_the_second_place_do_not_share_a_scale(steps: int) -> None:
    """Time first, with as many steps as items or not: an item of huge values costs the others nothing."""
    chain, _ = captured_chain(model("TimeFirst", steps), microbatch=3)
    inside = [tensor for boundary in chain.boundaries[1:-1] for tensor in boundary.tensors]
    assert {(tensor.shape, tensor.item_axis) for tensor in inside} == {((steps, 3, 16), 1)}
    assert [spec.shape for spec in wire_tensors(inside[0], RAW_INT8)] == [(3, steps * 16), (3, 2, 1)]
    x = torch.randn(3, steps, 16, generator=torch.Generator().manual_seed(0))
    stage = stage_module(chain, 0, 0, RAW, RAW_INT8)
    with torch.no_grad():
        codes, scale = stage(x)
        x[2] *= 1000
        codes_beside, scale_beside = stage(x)
    assert torch.equal(codes[:2], codes_beside[:2])
    assert torch.equal(scale[:2], scale_beside[:2])


def test_a_single_number_travels_as_it_is() -> None:
    chain, examples = captured_chain(model("Scaled"), microbatch=1)
    numbers = [tensor for boundary in chain.boundaries for tensor in boundary.tensors if tensor.shape == ()]
    assert numbers
    assert not any(is_encoded(tensor, wire_format(name)) for tensor in numbers for name in ("int8", "fp16"))
    assert wire_tensors(numbers[0], RAW_INT8)[0].num_bytes == 4
    values = examples
    with torch.no_grad():
        for unit in chain.units:
            last = unit.index == len(chain.units) - 1
            wires = (RAW if unit.index == 0 else RAW_INT8, RAW if last else RAW_INT8)
            values = tuple(stage_module(chain, unit.index, unit.index, *wires)(*values))
        expected = chain.captured.graph_module(*examples)
    assert torch.allclose(values[0], expected[0], atol=0.1)


def test_all_ordinary_models_are_here() -> None:
    named = {name for name, value in vars(ordinary).items() if isinstance(value, type) and not name.startswith("_")}
    assert named == {name for name, _ in CASES}
