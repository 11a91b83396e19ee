"""Modules of unusual make: they compile, or one line names the operator and the line of the model's source."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_operators
import pytest
import torch
import unusual
from compiler_helpers import Compile, command
from safetensors.torch import save_file
from torch import nn

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution.opened_shard import open_stage
from edgecompile.frontend.capture.flat_model import FlatModel
from edgelaunch.doctor.check_software import check_libraries
from edgelaunch.doctor.findings import FAILS, OK, CheckContext

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]


def words(target: str) -> tuple[str, ...]:
    return ("model=custom", f"model.build._target_={target}", "model.inputs={x: {shape: [8], dtype: float32}}",
            "microbatch=2", "hosts.count=2", "schedule=even")  # fmt: skip


def results(plan: Plan, folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the shards make of one microbatch."""
    values: tuple[torch.Tensor, ...] = (x,)
    for stage in plan.stages:
        values = open_stage(stage, folder).run(*values)
        values = values if isinstance(values, tuple) else (values,)
    return values


class Three(nn.Module):
    def forward(self, ids: torch.Tensor, kinds: torch.Tensor | None = None, mask: Any = None) -> torch.Tensor:
        return ids if mask is None else ids * mask


class NoNames(nn.Module):
    def forward(self, x: torch.Tensor, /, y: torch.Tensor) -> torch.Tensor:
        return x - y


class OfAnyNumber(nn.Module):
    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return values[0] - values[1]


def test_several_inputs_go_by_name_where_there_are_names() -> None:
    one, two = torch.ones(2, 3), torch.full((2, 3), 2.0)
    assert torch.equal(FlatModel(Three(), ["mask", "ids"], ())(two, one)[0], two)
    assert torch.equal(FlatModel(Three(), ["a"], ())(two)[0], two)
    assert torch.equal(FlatModel(OfAnyNumber(), ["a", "b"], ())(one, two)[0], one - two)
    assert torch.equal(FlatModel(NoNames(), ["x", "y"], ())(one, two)[0], one - two)
    for names in (["maks", "ids"], ["ids", "maks"]):  # by position, one would take another's place
        with pytest.raises(UserError, match=r"Three\.forward cannot take .*maks.*did you mean mask"):
            FlatModel(Three(), names, ())
    with pytest.raises(UserError, match=r"NoNames\.forward cannot take y, x"):
        FlatModel(NoNames(), ["y", "x"], ())
    with pytest.raises(UserError, match=r"Three\.forward cannot take a, b"):
        FlatModel(Three(), ["a", "b"], ())


@pytest.mark.parametrize("name", ["Mapped", "Scaled", "Bits", "Wrapped", "Compiled", "compiled", "parallel", "Lazy"])
def test_what_compiles(compile_here: Compile, tmp_path: Path, name: str) -> None:
    plan = compile_here(*words(f"unusual.{name}"))
    torch.manual_seed(0)
    model = getattr(unusual, name)()
    x = torch.linspace(-2, 2, 16).reshape(2, 8)
    model.eval()
    with torch.no_grad():
        if name == "Lazy":
            assert plan.model.num_parameters == 8 * 8 + 8 + 2 * 8 + 8 * 4 + 4
            return  # its weights are made of golden items
        with torch.compiler.set_stance("force_eager"):
            expected = model(x)
        torch.testing.assert_close(results(plan, tmp_path / "outputs", x)[0], expected)
    assert [unit.op for unit in plan.units][-1] == "last"  # no wrapper is part of a name


@pytest.mark.parametrize("capture", ["export", "symbolic_trace"])
def test_dataclasses_are_results(compile_here: Compile, capture: str) -> None:
    whole = compile_here(*words("unusual.Dataclass"), f"capture={capture}")
    names = ["scores", "states.last", "states.others.0.next", "pair.first"]
    assert [spec.name for spec in whole.outputs] == names
    some = compile_here(*words("unusual.Dataclass"), f"capture={capture}", "model.output=[states.others.0.next,pair]")
    assert [spec.name for spec in some.outputs] == ["states.others.0.next", "pair.first"]
    with pytest.raises(UserError, match=r"no field 'states\.first': its fields are pair\.first, scores, states\.last"):
        compile_here(*words("unusual.Dataclass"), f"capture={capture}", "model.output=states.first")


@pytest.mark.parametrize("capture", ["export", "symbolic_trace"])
def test_a_tensor_alone_has_one_name(compile_here: Compile, capture: str) -> None:
    plan = compile_here(*words("unusual.Tensor"), f"capture={capture}", "model.output=output")
    assert [spec.name for spec in plan.outputs] == ["output"]
    with pytest.raises(UserError, match=r"no field 'logits': its fields are output"):
        compile_here(*words("unusual.Tensor"), f"capture={capture}", "model.output=logits")


REFUSED = {
    "Branches": ("bool", "depends on the data"),
    "Counts": ("int", "depends on the data"),
    "ReadsNumber": ("item", "Python number"),
    "Nonzero": ("nonzero", "shape that depends on the data"),
    "Unique": ("_unique2", "shape that depends on the data"),
    "Masked": ("index", "shape that depends on the data"),
    "Cond": ("cond", "torch.where"),
    "Loops": ("while_loop", "loop of fixed length"),
    "Scans": ("scan", "loop of fixed length"),
    "ToNumpy": ("numpy", "cannot trace"),
    "WrongSize": ("reshape", "the model fails on inputs of the shapes"),
}
"""The operator that the message names, and what it says of it. Each module has one line with a comment."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_operator_and_line(
    compile_here: Compile, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    operator, reason = REFUSED[name]
    lines, start = inspect.getsourcelines(getattr(unusual, name))
    (line,) = [start + index for index, text in enumerate(lines) if "  # " in text]
    with pytest.raises(UserError, match=re.escape(reason)) as caught:
        compile_here(*words(f"unusual.{name}"))
    where = re.search(r"(\w+) at (\S+unusual\.py:\d+)|(\S+unusual\.py:\d+)", str(caught.value))
    assert where is not None, caught.value
    assert (where[2] or where[3]).endswith(f"unusual.py:{line}")
    assert where[1] in (operator, None if name == "WrongSize" else operator)
    assert "Traceback" not in capfd.readouterr().err


def test_symbolic_trace_names_lines_too(compile_here: Compile) -> None:
    with pytest.raises(UserError, match=r"index at \S+unusual\.py:\d+, whose result|getitem at \S+unusual\.py:\d+"):
        compile_here(*words("unusual.Masked"), "capture=symbolic_trace")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scripted", r"unusual\.scripted returned a TorchScript module \(Sequential\)"),
        ("HasScript", r"returned 'first' as a TorchScript module \(Linear\)"),
        ("quantised", r"returned 'first' as a quantised Linear"),
        ("Sparse", r"the weight 'graph' is sparse \(sparse_coo\): .*to_dense"),
        ("on_meta", r"'first\.weight' on the meta device, without values: load them with weights=FILE"),
        ("meta_buffer", r"'table' on the meta device"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, :UserWarning")
def test_weights_that_no_shard_can_hold(compile_here: Compile, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compile_here(*words(f"unusual.{name}"))


def test_a_meta_module_takes_its_values_from_a_file(compile_here: Compile, tmp_path: Path) -> None:
    torch.manual_seed(5)
    real = unusual.Small()
    state = {name: value.clone() for name, value in real.state_dict().items()}
    again = {f"again.{name.removeprefix('last.')}": value.clone() for name, value in state.items() if "last" in name}
    save_file(state | again, tmp_path / "small.safetensors")
    plan = compile_here(*words("unusual.on_meta"), f"weights={tmp_path / 'small.safetensors'}")
    assert plan.model.num_parameters == 8 * 8 + 8 + 8 * 4 + 4
    x = torch.linspace(-2, 2, 16).reshape(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(results(plan, tmp_path / "outputs", x)[0], real(x))


# --- operators of a model's own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [[], ["runtime.import=[own_operators]"]])
def test_ranks_import_what_registers_a_models_operators(
    compile_here: Compile, tmp_path: Path, named: list[str]
) -> None:
    plan = compile_here(*words("own_operators.Doubled"), *named)
    path = tmp_path / "outputs" / "plan.yaml"
    assert read_plan(path).runtime.imports == ("own_operators",)
    (note,) = plan.notes
    assert "edgecompile_tests::double" in note
    assert "every rank needs own_operators" in note
    good = command("edgelaunch", str(path), "--local", "--verify", "--quiet", folder=tmp_path, path=HERE)
    assert good.returncode == 0, good.stderr
    bad = command("edgelaunch", str(path), "--local", "--quiet", folder=tmp_path)
    assert bad.returncode == 2
    (line,) = bad.stderr.strip().splitlines()
    assert "runtime.import: the module own_operators cannot be imported here: ModuleNotFoundError" in line


def test_doctor_looks_for_the_libraries(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*words("own_operators.Doubled"), "runtime.import=[own_operators]")
    lacking = replace(plan, runtime=replace(plan.runtime, imports=("own_operators", "no_such_operators")))
    context = CheckContext(plan=lacking, folder=tmp_path, ranks=(0,), endpoint=None)
    there, gone = check_libraries(context)
    assert (there.verdict, there.found) == (OK, "own_operators can be imported")
    assert gone.verdict == FAILS
    assert "no_such_operators cannot be imported here" in gone.found
    assert "PYTHONPATH" in gone.fix


def test_operators_without_their_library_are_told_of(compile_here: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(own_operators.double._init_fn, "__module__", "__main__")  # as in a script, which no rank has
        (note,) = compile_here(*words("own_operators.Doubled")).notes
    assert "edgecompile_tests::double" in note
    assert "runtime.import=[MODULE]" in note
    with pytest.raises(UserError, match=r"shapeless at \S*own_operators\.py:\d+: .*no fake impl"):
        compile_here(*words("own_operators.Shapeless"))
    with pytest.raises(UserError, match=r"edgecompile_tests\.fill\S* at \S*own_operators\.py:\d+, which writes into"):
        compile_here(*words("own_operators.Filled"))


@pytest.mark.parametrize("value", ["[a-b]", "[3]", "{a: 1}", "[import]"])
def test_imports_are_names_of_modules(compile_here: Compile, value: str) -> None:
    with pytest.raises(UserError, match=r"for runtime\.import: expected a list of modules"):
        compile_here(*words("unusual.Small"), f"runtime.import={value}")


def test_an_import_that_fails_is_one_line(
    compile_here: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_operators.py").write_text("raise OSError('libthing.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"module broken_operators cannot be imported here: OSError: libthing\.so"):
        compile_here(*words("unusual.Small"), "runtime.import=[broken_operators]")
    with pytest.raises(UserError, match=r"module no_such_operators cannot be imported here: ModuleNotFoundError"):
        compile_here(*words("unusual.Small"), "runtime.import=no_such_operators")
