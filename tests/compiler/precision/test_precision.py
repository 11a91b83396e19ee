"""Stages in other precisions: what they may cost, what is left alone, and what the plan says of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compiler_helpers import SMALL_DEIT, Compile, compile_into
from safetensors.torch import load_file
from torch import nn

from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution import integer_kernels, opened_shard, prepack
from edgecompile.execution.fusion.product_kinds import EIGHT_BITS, Codes, Kind, PackedWeights
from edgecompile.execution.low_precision import fast_here, linear_int8
from edgecompile.execution.opened_shard import open_stage

LOW = ("bf16", "fp16", "int8")
MLP = ("model=custom", "model.build._target_=test_precision.mlp", "model.inputs={x: {shape: [64], dtype: float32}}",
       "microbatch=4")  # fmt: skip
LIMITS = {"bf16": 1e-4, "fp16": 1e-6, "int8": 1e-3}
"""Squared errors that two layers make."""

needs_vnni = pytest.mark.skipif(
    not fast_here(Precision.INT8), reason="this processor has no instructions for int8 products"
)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 10)).eval()


def without_bias() -> nn.Module:
    """Products as Llama and GPT-2 have them: without a bias, with weights (in, out), and of weights read twice."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 512, bias=False)
            self.turned = nn.Parameter(torch.randn(512, 64) / 20)
            self.tied = nn.Linear(64, 512, bias=False)
            self.tied.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.first(x)) @ self.turned
            return self.tied(torch.tanh(h))

    return Module().eval()


def outlier() -> nn.Module:
    """The second layer's activations have one channel that is ten thousand times as large as the others."""
    module = mlp()
    with torch.no_grad():
        module[0].bias[0] = 10_000
        module[2].weight[:, 0] /= 10_000
    return module


class Repeated(nn.Module):
    """One layer twice, and another two with the same weights: tied, and equal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.equal, self.tied = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64, bias=False)
        self.equal.load_state_dict(self.first.state_dict())
        self.tied.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(self.equal(self.first(self.first(x).relu()).relu()).relu())


def repeated() -> nn.Module:
    return Repeated().eval()


class Empty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.usual = nn.Parameter(torch.zeros(8, 0)), nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x[:, :0], self.narrow) + self.usual(x)


def empty() -> nn.Module:
    return Empty().eval()


def run(plan: Plan, folder: Path, *values: torch.Tensor, packed: bool = False) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        for stage in plan.stages:
            opened = open_stage(stage, folder)
            values = tuple((opened.prepacked() if packed else opened.run)(*values))
    return values


def squared(value: torch.Tensor, true: torch.Tensor) -> float:
    return float((value.double() - true.double()).square().sum() / true.double().square().sum())


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("artifact", ["torchscript", "pt2"])
def test_products_are_in_the_precision_and_results_near_the_model(
    compile_here: Compile, tmp_path: Path, precision: str, artifact: str
) -> None:
    plan = compile_here(*MLP, "hosts.count=1", f"precision={precision}", f"artifact={artifact}")
    assert [stage.precision for stage in plan.stages] == [precision]
    assert plan.version == 2
    torch.manual_seed(7)
    x = torch.randn(4, 64)
    torch.manual_seed(0)
    module = mlp().double()
    _fill(module, tmp_path / "fp32")
    (found,) = run(plan, tmp_path / "outputs", x)
    with torch.no_grad():
        error = squared(found, module(x.double()))
    assert 0 < error < LIMITS[precision]
    assert plan.accuracy is not None
    assert 0 < plan.accuracy.error[plan.outputs[0].name] < LIMITS[precision]
    (packed,) = run(plan, tmp_path / "outputs", x, packed=True)
    torch.testing.assert_close(packed, found, atol=2e-2 if precision != "int8" else 1e-5, rtol=0)


def _fill(module: nn.Module, folder: Path) -> None:
    """With the weights of a plan in float32."""
    plan = compile_into(folder, *MLP, "hosts.count=1")
    stored: dict[str, torch.Tensor] = {}
    for sha256 in plan.stages[0].weights:
        stored |= load_file(folder / "weights" / f"{sha256}.safetensors")
    with torch.no_grad():
        for parameter in module.parameters():
            (value,) = [value for value in stored.values() if value.shape == parameter.shape] or [None]
            if value is None:  # too small for a file: it is in the shard
                raise AssertionError(f"no weights of the shape {tuple(parameter.shape)}")
            parameter.copy_(value)


def test_eight_bits_take_a_quarter_of_the_disk(tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp32", "bf16", "int8"):
        compile_into(tmp_path / precision, *MLP, "hosts.count=1", f"precision={precision}")
        sizes[precision] = sum(path.stat().st_size for path in (tmp_path / precision / "weights").iterdir())
    assert sizes["int8"] < 0.3 * sizes["fp32"]  # with two headers, scales and biases
    assert sizes["bf16"] < 0.53 * sizes["fp32"]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("artifact", ["torchscript", "pt2"])
def test_products_without_a_bias_and_with_shared_weights(
    compile_here: Compile, tmp_path: Path, precision: str, artifact: str
) -> None:
    words = [*MLP[:1], "model.build._target_=test_precision.without_bias", *MLP[2:], "hosts.count=1"]
    plan = compile_here(*words, f"precision={precision}", f"artifact={artifact}", "accuracy.budget=0.001")
    files = [load_file(tmp_path / "outputs" / "weights" / f"{sha256}.safetensors") for sha256 in plan.stages[0].weights]
    assert len(files) == 2  # the tied weights once
    items = torch.randn(4, 64)
    (found,) = run(plan, tmp_path / "outputs", items)
    (packed,) = run(plan, tmp_path / "outputs", items, packed=True)
    torch.testing.assert_close(packed, found, atol=2e-2 if precision == "bf16" else 1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", LOW)
def test_an_item_is_the_same_alone_and_among_others(compile_here: Compile, tmp_path: Path, precision: str) -> None:
    plan = compile_here(*MLP, "hosts.count=2", "schedule=even", f"precision={precision}")
    items = torch.randn(4, 64) * torch.tensor([1.0, 1000.0, 1e-3, 0.0])[:, None]  # of unlike sizes
    (together,) = run(plan, tmp_path / "outputs", items)
    for index in range(4):
        (alone,) = run(plan, tmp_path / "outputs", items[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], atol=0, rtol=1e-2 if precision != "int8" else 1e-5)


@pytest.mark.parametrize("artifact", ["torchscript", "pt2"])
@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("model", ["repeated", "empty"])
def test_weights_that_several_products_share_and_weights_of_no_value(
    compile_here: Compile, tmp_path: Path, model: str, precision: str, artifact: str
) -> None:
    words = (MLP[0], f"model.build._target_=test_precision.{model}", *MLP[2:], "hosts.count=1")
    x = torch.randn(4, 64)
    (true,) = run(compile_into(tmp_path / "fp32", *words), tmp_path / "fp32", x)
    plan = compile_here(*words, f"precision={precision}", f"artifact={artifact}")
    for packed in (False, True):
        (found,) = run(plan, tmp_path / "outputs", x, packed=packed)
        assert 0 < squared(found, true) < LIMITS[precision]


def test_each_kind_of_device_has_its_own(compile_here: Compile, tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "three.yaml").write_text(
        "defaults: [/board@a: local, /board@b: local, /board@c: local, _self_]\n"
        "b: {precision: bf16}\nc: {precision: int8, precisions: [int8], peak: {float32: 100 GFLOPS, int8: 400e9}}\n"
    )
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "three.yaml").write_text(
        "members: {a: {device: a}, b: {device: b, port: 29510}, c: {device: c, port: 29520}}\n"
    )
    words = (f"hydra.searchpath=[file://{tmp_path}]", "devices=three", *SMALL_DEIT, "microbatch=2", "schedule=even")
    plan = compile_here(*words, "contingency=1")
    assert [stage.precision for stage in plan.stages] == ["fp32", "bf16", "int8"]
    assert read_plan(tmp_path / "outputs" / "plan.yaml") == plan
    products = [unit for unit in plan.units if unit.op.endswith("fc1")]
    assert all(unit.time_s["c"] < unit.time_s["b"] <= unit.time_s["a"] for unit in products)
    assert all(unit.saved_bytes == {"b": unit.weight_bytes // 2, "c": unit.weight_bytes * 3 // 4} for unit in products)
    for stage, device in zip(plan.stages, "abc", strict=True):
        units = plan.units[stage.units[0] : stage.units[1] + 1]
        own = sum(unit.weight_bytes - unit.saved_bytes.get(device, 0) for unit in units)
        assert own < stage.predicted.memory_bytes < plan.devices[0].runtime_bytes + own + 2**20  # with the buffers
    of_lost = {item.lost: {stage.precision for stage in item.stages} for item in plan.contingencies}
    assert of_lost == {"b": {"fp32", "int8"}, "c": {"fp32", "bf16"}}


def test_a_precision_that_costs_too_much_is_refused_with_the_figures(compile_here: Compile, tmp_path: Path) -> None:
    words = [*MLP[:1], "model.build._target_=test_precision.outlier", *MLP[2:], "hosts.count=1", "precision=int8"]
    with pytest.raises(UserError) as refused:
        compile_here(*words)
    assert refused.value.key == "accuracy.budget"
    assert "more than 0.01" in str(refused.value)
    assert "most is lost in 2 (" in str(refused.value)
    assert not (tmp_path / "outputs" / "plan.yaml").exists()
    kept = compile_here(*words, "precision.keep=['2']")
    assert kept.accuracy is not None
    assert max(kept.accuracy.error.values()) < 0.01
    assert any("1 product of a kept module" in note for note in kept.notes)
    assert compile_here(*words, "accuracy.budget=10").accuracy is not None


class Ranked(nn.Module):
    """Its outputs are whole numbers, which close decisions turn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 256), nn.Linear(256, 500)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu()).argsort(-1)[:, :50]


def ranked() -> nn.Module:
    return Ranked().eval()


def test_whole_numbers_are_compared_with_the_models(compile_here: Compile, tmp_path: Path) -> None:
    words = (MLP[0], "model.build._target_=test_precision.ranked", *MLP[2:], "hosts.count=1")
    plan = compile_here(*words, "precision=int8")
    assert plan.accuracy is not None
    assert plan.accuracy.error == {}
    whole = compile_into(tmp_path / "fp32", *words)
    golden = load_file(tmp_path / "fp32" / whole.golden.file)
    inputs, (name,) = golden["input.x"], [spec.name for spec in plan.outputs]
    (found,) = run(plan, tmp_path / "outputs", inputs)
    share = float((found == golden[f"output.{name}"]).double().mean())
    assert 0 < share < 0.9
    assert plan.accuracy.agreement == {name: pytest.approx(share, abs=0.02)}
    with pytest.raises(UserError, match=r"accuracy\.agreement.*agree with the model.*less than 99\.0%"):
        compile_here(*words, "precision=int8", "accuracy.agreement=0.99")


def test_where_nothing_can_be_lowered_the_plan_says_so(compile_here: Compile) -> None:
    words = (MLP[0], "model.build._target_=test_precision.wide_weights", *MLP[2:], "hosts.count=1")
    plan = compile_here(*words, "precision=int8")
    assert any("no product could be lowered" in note for note in plan.notes)


def wide_weights() -> nn.Module:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 16).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.double()).float()

    return Module().eval()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_bundled_shard_is_run_by_torch_alone(compile_here: Compile, tmp_path: Path, precision: str) -> None:
    plan = compile_here(*MLP, "hosts.count=1", f"precision={precision}", "artifact.bundle=true")
    x = torch.randn(4, 64)
    (found,) = run(plan, tmp_path / "outputs", x)
    torch.save(x, tmp_path / "x.pt")
    shard = tmp_path / "outputs" / plan.stages[0].shard
    code = (
        f"import sys, torch; y = torch.jit.load({str(shard)!r})(torch.load({str(tmp_path / 'x.pt')!r}))[0];"
        f"assert 'edgecompile' not in sys.modules; torch.save(y, {str(tmp_path / 'y.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), found, atol=1e-5, rtol=1e-4)


@needs_vnni
@pytest.mark.parametrize("few_rows", [False, True])
@pytest.mark.parametrize("shape", [(1, 64), (3, 5, 64), (2, 197, 768), (0, 64)])
def test_integers_and_floats_compute_the_same(shape: tuple[int, ...], *, few_rows: bool) -> None:
    torch.manual_seed(0)
    x, codes = torch.randn(shape), torch.randint(-127, 128, (800, shape[-1]), dtype=torch.int8)
    x[..., :1, :] = 0.0
    scale, bias = torch.rand(800) / 100, torch.randn(800)
    kernel = integer_kernels._kernel(codes, scale, (), 64, few_rows=few_rows)
    found, wanted = kernel(x, scale, bias, ()), linear_int8(x, codes, scale, bias)
    far = (found - wanted).abs() > 1e-4 + 1e-5 * wanted.abs()
    if few_rows:  # FBGEMM adds the code of zero before it rounds: what lies between two codes may become the other one
        rows = far.any(-1).flatten()
        assert int(rows.sum()) <= 1 + len(rows) // 100
        torch.testing.assert_close(found, wanted, atol=float(x.abs().max() * scale.max()) if x.numel() else 0, rtol=0)
    else:
        assert not far.any()


@needs_vnni
def test_sums_of_the_widest_rows_do_not_wrap() -> None:
    """Wider ones than the kernel's sums can hold stay in floats."""
    most = integer_kernels._MOST_SUMMED
    assert most * 255 * 127 < 2**31 <= (most + 1) * 255 * 127
    codes, x, scale = torch.full((1, most), 127, dtype=torch.int8), torch.ones(1, most), torch.ones(1)
    by_onednn = integer_kernels._by_onednn(codes, 1)
    by_fbgemm = integer_kernels._kernel(codes, scale, (), 1, few_rows=True)
    for kernel in (by_onednn, by_fbgemm):
        found = kernel(x, scale, None, ())
        torch.testing.assert_close(found, torch.full((1, 1), 127.0 * most), rtol=1e-4, atol=0)


@needs_vnni
def test_a_row_of_integers_depends_on_no_other() -> None:
    torch.manual_seed(0)
    x, codes, scale = torch.randn(9, 96), torch.randint(-127, 128, (64, 96), dtype=torch.int8), torch.rand(64)
    x[3] *= 1e6
    kernel = integer_kernels._kernel(codes, scale, (), 9, few_rows=True)
    together = kernel(x, scale, None, ())
    for row in range(len(x)):
        assert torch.equal(kernel(x[row : row + 1], scale, None, ())[0], together[row])


@needs_vnni
def test_a_row_that_is_not_finite_is_not_a_number_and_the_others_are() -> None:
    x, codes, scale = torch.randn(3, 64), torch.randint(-127, 128, (32, 64), dtype=torch.int8), torch.rand(32)
    x[0, 5], x[2, 7] = float("nan"), float("inf")
    for few_rows in (False, True):
        found = integer_kernels._kernel(codes, scale, (), 3, few_rows=few_rows)(x, scale, None, ())
        assert found[1].isfinite().all()
        assert found[0].isnan().all()
        assert not found[2].isfinite().any()


def test_without_the_instructions_the_same_is_computed_in_floats(
    compile_here: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = compile_here(*MLP, "hosts.count=1", "precision=int8")
    x = torch.randn(4, 64)
    (usual,) = run(plan, tmp_path / "outputs", x, packed=True)
    asked: list[Precision] = []

    def none(precision: Precision) -> bool:
        asked.append(precision)
        return False

    monkeypatch.setattr(prepack, "fast_here", none)
    (found,) = run(plan, tmp_path / "outputs", x, packed=True)
    assert Precision.INT8 in asked
    torch.testing.assert_close(found, usual, atol=1e-5, rtol=1e-4)


def test_what_is_not_finite_stays_in_its_row() -> None:
    x = torch.ones(4, 64)
    x[1, 3], x[2, 4] = float("nan"), float("inf")
    found = linear_int8(x, torch.ones(8, 64, dtype=torch.int8), torch.ones(8))
    assert found[[0, 3]].isfinite().all()
    assert not found[1].isfinite().any()
    assert not found[2].isfinite().any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("precision.format=int3",), "precision: expected one of bf16|invalid value 'int3' for precision"),
        (("devices.local.precision=half",), "devices.local.precision"),
        (("accuracy.budget=0",), "accuracy.budget"),
        (("precision=int8", "precision.keep=[nowhere]"), "precision.keep.*nowhere"),
    ],
)
def test_what_is_wrong_is_named(compile_here: Compile, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compile_here(*MLP, "hosts.count=1", *words)


def test_a_shard_of_integers_says_what_it_needs(compile_here: Compile, tmp_path: Path) -> None:
    """Both ways to open it register the operator first."""
    plan = compile_here(*MLP, "hosts.count=1", "precision=int8")
    code = (
        "import torch; from pathlib import Path; from edgecompile.contract.plan_file import read_plan;"
        "from edgecompile.execution.opened_shard import open_stage;"
        f"folder = Path({str(tmp_path / 'outputs')!r}); plan = read_plan(folder / 'plan.yaml');"
        "print(open_stage(plan.stages[0], folder).run(torch.ones(4, 64))[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert "torch.Size([4, 10])" in done.stdout
    assert opened_shard is not None
    assert isinstance(plan.notes, tuple)


def test_attention_is_left_alone_and_the_plan_says_so(compile_here: Compile) -> None:
    plan: Any = compile_here(*SMALL_DEIT, "hosts.count=1", "microbatch=2", "precision=bf16")
    (note,) = [note for note in plan.notes if "left in fp32" in note]
    assert "other products" in note
    assert "convolution" not in note  # that of the patches is not


@needs_vnni
def test_kernels_of_this_machine_that_compute_something_else_are_found_out(
    compile_here: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = integer_kernels._kernel

    def broken(codes: torch.Tensor, *rest: Any, **options: Any) -> Any:
        return whole(-codes, *rest, **options)

    kind = type(EIGHT_BITS)
    pack = kind.pack

    def packed(self: Kind, products: Sequence[Codes], place: torch.Tensor) -> PackedWeights:
        return pack(self, [replace(product, codes=-product.codes) for product in products], place)

    monkeypatch.setattr(integer_kernels, "_kernel", broken)
    monkeypatch.setattr(kind, "pack", packed)
    with pytest.raises(UserError, match=r"kernels that this machine has.*runtime\.prepack=never"):
        compile_here(*MLP, "hosts.count=1", "precision=int8")
    assert not (tmp_path / "outputs" / "plan.yaml").exists()
    assert compile_here(*MLP, "hosts.count=1", "precision=int8", "runtime.prepack=never").accuracy is not None
