"""Lossy wires: masks travel as they are, what the formats cost is limited, and the plan says it."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
from compiler_helpers import Compile, captured_chain, hand_written
from safetensors.torch import load_file

from edgecompile.commands.compile_command import compose
from edgecompile.config.model_spec import model_of
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.golden_items import golden_inputs
from edgecompile.models import build_model
from edgecompile.wire.exact_tensors import keep_exact
from edgecompile.wire.formats import FORMATS, wire_bytes

LEAST = torch.finfo(torch.float32).min
INPUTS = "{x: {shape: [6, 8], dtype: float32}, mask: {shape: [6], dtype: int64}}"
FORKED = (*hand_written("Forked"), "schedule=even", "hosts.count=3", "microbatch=2")


def masked(hidden: object, *, both: bool = False) -> tuple[str, ...]:
    return ("model=custom", "model.build._target_=hand_written.Masked", f"+model.build.hidden={hidden}",
            f"+model.build.both={both}", f"model.inputs={INPUTS}")  # fmt: skip


@functools.cache
def captured(*model: str) -> Chain:
    return captured_chain(model, 2)[0]


def marked(*model: str, lossy: bool = True) -> Chain:
    conf = compose(list(model))
    spec = model_of(conf.model)
    golden = golden_inputs(spec, build_model(spec, 0), 0)
    return keep_exact(captured(*model), golden, 2, lossy)


def names(chain: Chain, exact: bool) -> set[str]:
    """The operators whose float results do, or do not, travel as they are."""
    inner = [tensor for boundary in chain.boundaries[1:-1] for tensor in boundary.tensors]
    return {str(tensor.node.name).partition("_")[0] for tensor in inner
            if tensor.dtype == "float32" and tensor.exact is exact}  # fmt: skip


@pytest.mark.parametrize("hidden", [-math.inf, LEAST, -10000.0])
@pytest.mark.parametrize("lossy", [True, False])
def test_masks_and_what_they_were_added_to_travel_as_they_are(hidden: float, lossy: bool) -> None:
    """A mask is known by how it is computed; a sum with one by its values."""
    chain = marked(*masked(hidden), lossy=lossy)
    assert names(chain, exact=True) == {"to", "log", "clamp", "add"}
    assert names(chain, exact=False) >= {"linear", "softmax", "tanh"}


def test_a_mask_of_moderate_values_is_known_by_how_it_is_computed() -> None:
    assert "clamp" in names(marked(*masked(-3.0)), exact=True)
    assert "add" in names(marked(*masked(-3.0)), exact=False)


def test_the_scheduler_counts_the_bytes_that_travel() -> None:
    chain = marked(*masked(-math.inf))
    int8 = FORMATS["int8"]
    for boundary in chain.boundaries[1:-1]:
        for tensor in boundary.tensors:
            assert tensor.exact is False or wire_bytes(boundary, int8) >= tensor.num_bytes
    plain = captured(*masked(-math.inf))
    cut = next(unit.index for unit in chain.units if unit.kind == "tanh")
    after, before = (wire_bytes(one.boundaries[cut], int8) for one in (chain, plain))
    # the mask is (2, 6): 48 bytes as it is; encoded 12 codes and an offset and a step for each item
    assert after - before == 48 - (12 + 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hidden", "both"),
    [("int8", -math.inf, False), ("fp16", LEAST, False), ("int4", LEAST, False), ("bf16", LEAST, True)],
)
def test_a_hidden_token_stays_hidden(
    compile_here: Compile, tmp_path: Path, name: str, hidden: float, both: bool
) -> None:
    """The golden items have padding: what a format may lose is the rounding of activations, never the mask."""
    plan = compile_here(*masked(hidden, both=both), f"wire={name}", "schedule=manual", "schedule.cuts=[mix.0,mix.2]",
                        "hosts.count=3", "microbatch=2")  # fmt: skip
    assert plan.lossy
    sent = {spec.name: spec for spec in plan.stages[0].outputs}
    (mask,) = [spec for key, spec in sent.items() if key.startswith("clamp")]
    assert (mask.dtype, mask.wire) == ("float32", "raw")
    assert any(spec.wire == name for spec in sent.values())
    for before, after in zip(plan.stages, plan.stages[1:], strict=False):
        sizes = plan.boundaries[plan.units[after.units[0]].boundary].wire_bytes
        assert sizes[name] == sum(spec.num_bytes for spec in before.outputs)
    golden = load_file(tmp_path / "outputs" / plan.golden.file)
    largest = float(golden["output.scores"].abs().max())
    assert plan.golden.tolerance["scores"] < {"fp16": 0.01, "bf16": 0.02, "int8": 0.03, "int4": 0.3}[name] * largest


@pytest.mark.slow
def test_the_plan_says_what_lossy_formats_cost(compile_here: Compile) -> None:
    plan = compile_here(*FORKED, "wire=int8")
    (note,) = [note for note in plan.notes if note.startswith("lossy wire formats")]
    for text in ("scores is within 1.", "states.0 is within", "of best differ from the eager model's",
                 "0.0% of kept differ"):  # fmt: skip
        assert text in note
    exact = compile_here(*FORKED)
    assert not exact.lossy
    assert not any("lossy" in note for note in exact.notes)


def refused(compile_here: Compile, *words: str) -> str:
    with pytest.raises(UserError) as error:
        compile_here(*words)
    return str(error.value)


@pytest.mark.slow
def test_a_format_that_loses_too_much_is_refused_by_cut_and_tensor(compile_here: Compile) -> None:
    """Of two cuts, the one with two bits is to blame, not the one with eight."""
    cuts = ("schedule=manual", "schedule.cuts=[mix.0,mix.2]", "hosts.count=3", "microbatch=2")
    plan: Plan = compile_here(*masked(LEAST), *cuts)
    starts = [stage.units[0] for stage in plan.stages]
    for formats, place in (("[int2,int8]", 1), ("[int8,int2]", 2)):
        said = refused(compile_here, *masked(LEAST), *cuts, f"wire.per_cut={formats}", "wire.max_error=0.02")
        assert said.startswith("wire.max_error: the output scores differs from the eager model's")
        assert f"at the cut before unit {starts[place]} ({plan.stages[place].first_op}), where " in said
        assert "travels as int2" in said


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hidden"), [("int8", -math.inf), ("bf16", LEAST)])
def test_infinite_errors_are_refused_whatever_is_allowed(
    compile_here: Compile, monkeypatch: pytest.MonkeyPatch, name: str, hidden: float
) -> None:
    """As if masked scores were encoded: infinity has no code, and bfloat16 rounds the least float to it."""
    monkeypatch.setattr("edgecompile.pipeline.keep_exact", lambda chain, *others: chain)
    model = masked(hidden, both=hidden == LEAST)
    cut = next(unit.index for unit in captured(*model).units if unit.kind == "softmax")
    said = refused(compile_here, *model, f"wire={name}", "schedule=manual", f"schedule.cuts=[{cut}]", "hosts.count=2",
                   "wire.max_error=1e30")  # fmt: skip
    assert "differs from the eager model's by inf" in said
    assert f"at the cut before unit {cut} " in said


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan"])
def test_wrong_limits(compile_here: Compile, value: str) -> None:
    assert "for wire.max_error: expected a number greater than 0" in refused(
        compile_here, *FORKED, f"wire.max_error={value}"
    )
