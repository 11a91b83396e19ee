"""Convolutions in other precisions: with their batch norms, by integers, and calibrated on items of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiler_helpers import Compile, compile_into
from torch import nn

from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.execution import integer_kernels
from edgecompile.execution.low_precision import conv_int8, fast_here
from edgecompile.execution.opened_shard import open_stage
from edgecompile.precision.trial import squared_error

WORDS = ("model=custom", "model.inputs={x: {shape: [3, 24, 20], dtype: float32}}", "microbatch=3")
LIMITS = {"bf16": 1e-4, "fp16": 1e-5, "int8": 3e-3}

needs_vnni = pytest.mark.skipif(
    not fast_here(Precision.INT8), reason="this processor has no instructions for int8 products"
)


class Net(nn.Module):
    """Convolutions of all kinds, most with a batch norm of trained statistics behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.grouped = nn.Conv2d(32, 64, 3, padding=1, groups=2)
        self.grouped_norm = nn.BatchNorm2d(64, affine=False)
        self.dilated = nn.Conv2d(64, 64, 3, padding=2, dilation=2)
        self.narrow = nn.Conv2d(64, 32, 1)
        self.read_twice = nn.BatchNorm2d(32)
        self.line = nn.Conv1d(32, 32, 3, padding=1)
        self.up = nn.ConvTranspose2d(32, 8, 2, stride=2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        x = x + self.depthwise(x)
        x = self.grouped_norm(self.grouped(x)).relu()
        x = self.narrow(self.dilated(x).relu())
        x = self.read_twice(x) + x  # the convolution's own results are read too
        x = self.line(x.flatten(2)).reshape(x.shape)
        x = self.up(x)
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result


def net() -> nn.Module:
    torch.manual_seed(3)
    module = Net()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()  # type: ignore[union-attr, operator]
            part.running_var.uniform_(0.3, 3)  # type: ignore[union-attr, operator]
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module.eval()


def run(plan: Plan, folder: Path, x: torch.Tensor, *, packed: bool = False) -> torch.Tensor:
    values: tuple[torch.Tensor, ...] = (x,)
    with torch.no_grad():
        for stage in plan.stages:
            opened = open_stage(stage, folder)
            values = tuple((opened.prepacked() if packed else opened.run)(*values))
    return values[0]


@pytest.mark.parametrize("artifact", ["torchscript", "pt2"])
@pytest.mark.parametrize("precision", sorted(LIMITS))
def test_results_are_near_the_model(compile_here: Compile, tmp_path: Path, precision: str, artifact: str) -> None:
    words = (*WORDS, "model.build._target_=test_convolutions.net", "hosts.count=2", "schedule=even")
    plan = compile_here(*words, f"precision={precision}", f"artifact={artifact}")
    torch.manual_seed(11)
    x = torch.randn(3, 3, 24, 20)
    with torch.no_grad():
        true = net()(x)
    for packed in (False, True):
        found = run(plan, tmp_path / "outputs", x, packed=packed)
        assert 0 < squared_error([(found, true)]) < LIMITS[precision]
    alone = run(plan, tmp_path / "outputs", x[1:2])
    torch.testing.assert_close(alone[0], run(plan, tmp_path / "outputs", x)[1], atol=0, rtol=1e-2)
    (note,) = [note for note in plan.notes if "left in fp32" in note]
    assert "3 convolutions" in note  # depthwise, of one dimension, transposed


def test_weights_of_convolutions_take_fewer_bytes(compile_here: Compile) -> None:
    words = (*WORDS, "model.build._target_=test_convolutions.net", "hosts.count=1")
    sizes = {}
    for precision in ("fp32", "int8"):
        plan = compile_here(*words, f"precision={precision}")
        sizes[precision] = sum(unit.weight_bytes for unit in plan.units)
    assert sizes["int8"] < 0.5 * sizes["fp32"]


@pytest.mark.parametrize("step", [None, 0.02])
@pytest.mark.parametrize(
    ("shape", "stride", "padding", "dilation", "groups"),
    [
        ((48, 32, 3, 3), [1, 1], [1, 1], [1, 1], 1),
        ((48, 32, 1, 1), [1, 1], [0, 0], [1, 1], 1),
        ((48, 32, 5, 3), [2, 1], [2, 1], [1, 1], 1),
        ((48, 16, 3, 3), [1, 2], [2, 2], [2, 2], 2),
        ((48, 3, 7, 7), [2, 2], [3, 3], [1, 1], 1),
    ],
)
@needs_vnni
def test_integers_and_floats_compute_the_same(
    shape: tuple[int, ...], stride: list[int], padding: list[int], dilation: list[int], groups: int, step: float | None
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, shape[1] * groups, 13, 11) * torch.tensor([1.0, 100.0, 0.0])[:, None, None, None]
    codes, scale, bias = torch.randint(-127, 128, shape, dtype=torch.int8), torch.rand(48) / 100, torch.randn(48)
    zero = 0 if step is None else 90
    sizes = [stride, padding, dilation, groups]
    true = conv_int8(x, codes, scale, bias, *sizes, step, zero)  # type: ignore[arg-type]
    kernel = integer_kernels._kernel(codes, scale, [*sizes, step, zero], 1, few_rows=False)
    found = kernel(x, scale, bias, [*sizes, step, zero])
    torch.testing.assert_close(found, true, atol=1e-4 * float(true.abs().max()), rtol=1e-5)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.layers(x).mean((2, 3)))
        return result


def plain() -> nn.Module:
    torch.manual_seed(4)
    return Plain().eval()


PLAIN = (*WORDS, "model.build._target_=test_convolutions.plain", "hosts.count=1", "precision=int8")


def test_calibrated_activations_have_the_range_of_the_items(compile_here: Compile, tmp_path: Path) -> None:
    torch.manual_seed(2)
    x = torch.randn(8, 3, 24, 20)
    np.savez(tmp_path / "items.npz", x=x.numpy())
    dynamic = compile_here(*PLAIN, f"accuracy.items={tmp_path}/items.npz")
    static = compile_into(tmp_path / "static", *PLAIN, f"precision.calibration={tmp_path}/items.npz")
    assert any("activations of 2 convolutions calibrated on 8 items of items.npz" in note for note in static.notes)
    errors = []
    for plan in (dynamic, static):
        assert plan.accuracy is not None
        assert plan.accuracy.items is not None  # with calibration alone, these items are held to the budget too
        errors.extend(plan.accuracy.items.error.values())
    assert all(0 < error < 1e-3 for error in errors)
    with torch.no_grad():
        true = plain()(x)
    usual = run(static, tmp_path / "static", x[:3])
    assert squared_error([(usual, true[:3])]) < 1e-3
    for packed in (False, True):
        beyond = run(static, tmp_path / "static", 10 * x[:3], packed=packed)
        assert beyond.isfinite().all()
        assert squared_error([(beyond, 10 * true[:3])]) > 0.05  # larger values are cut off


@needs_vnni
@pytest.mark.parametrize("step", [None, 0.02])
def test_what_is_not_finite_stays_in_its_item(step: float | None) -> None:
    torch.manual_seed(0)
    x, codes = torch.randn(3, 32, 9, 9), torch.randint(-127, 128, (16, 32, 3, 3), dtype=torch.int8)
    x[0, 1, 2, 3], x[2, 1, 2, 3] = float("nan"), float("inf")
    rest = [[1, 1], [1, 1], [1, 1], 1, step, 0 if step is None else 90]
    scale = torch.rand(16)
    kernel = integer_kernels._kernel(codes, scale, rest, 1, few_rows=False)
    for found in (conv_int8(x, codes, scale, None, *rest), kernel(x, scale, None, rest)):
        assert found[1].isfinite().all()
        assert found[0].isnan().any()
        assert found[2].isnan().any()


def test_calibration_says_when_it_is_for_nothing_and_when_it_cannot_be(compile_here: Compile, tmp_path: Path) -> None:
    np.savez(tmp_path / "flat.npz", x=np.ones((2, 64), "float32"))
    mlp = ("model=custom", "model.build._target_=test_precision.mlp", "model.inputs={x: {shape: [64], dtype: float32}}",
           "hosts.count=1", "microbatch=2")  # fmt: skip
    plan = compile_here(*mlp, "precision=int8", f"precision.calibration={tmp_path}/flat.npz")
    assert any("calibration changes nothing" in note for note in plan.notes)
    with pytest.raises(UserError, match=r"precision\.calibration: .*x is float32 \(2, 64\)"):
        compile_here(*PLAIN, f"precision.calibration={tmp_path}/flat.npz")
    with pytest.raises(UserError, match=r"precision\.calibration: .*no such file"):
        compile_here(*PLAIN, f"precision.calibration={tmp_path}/nowhere")
    values: Any = np.full((2, 3, 24, 20), np.inf, "float32")
    np.savez(tmp_path / "endless.npz", x=values)
    with pytest.raises(UserError, match=r"precision\.calibration: the activations of .* are not finite"):
        compile_here(*PLAIN, f"precision.calibration={tmp_path}/endless.npz")


def test_a_bundle_needs_no_operator_of_ours(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*PLAIN, "artifact.bundle=true")
    graph = torch.jit.load(tmp_path / "outputs" / plan.stages[0].shard).inlined_graph
    assert not any(node.kind().startswith("edgecompile") for node in graph.nodes())
    x = torch.randn(3, 3, 24, 20)
    with torch.no_grad():
        assert squared_error([(run(plan, tmp_path / "outputs", x), plain()(x))]) < 1e-3


@needs_vnni
def test_windows_in_the_padding_alone_stay_in_floats(compile_here: Compile, tmp_path: Path) -> None:
    """oneDNN's kernel reads what is not there for one channel and a padding as large as the kernel."""
    plan = compile_here("model=custom", "model.inputs={x: {shape: [1, 24, 20], dtype: float32}}", "precision=int8",
                        "model.build._target_=test_convolutions.padded", "microbatch=2", "hosts.count=1")  # fmt: skip
    x = torch.randn(2, 1, 24, 20)
    with torch.no_grad():
        true = padded()(x)
    for packed in (False, True):
        assert squared_error([(run(plan, tmp_path / "outputs", x, packed=packed), true)]) < 3e-3


def padded() -> nn.Module:
    torch.manual_seed(6)
    return nn.Sequential(
        nn.Conv2d(1, 16, 2, stride=(2, 1), padding=(2, 1)), nn.Flatten(), nn.Linear(16 * 14 * 21, 5)
    ).eval()


class Odd(nn.Module):
    """Padding in words, and a convolution of one item without its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 32, 3, padding="same", dilation=2)
        self.valid = nn.Conv2d(32, 32, 3, padding="valid")
        self.uneven = nn.Conv2d(32, 16, 2, padding="same")
        self.alone = nn.Conv2d(16, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.uneven(self.valid(self.same(x)))
        return torch.stack([self.alone(item) for item in x.unbind()])


def odd() -> nn.Module:
    torch.manual_seed(7)
    return Odd().eval()


def test_padding_in_words_and_items_without_a_batch(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here("model=custom", WORDS[1], "precision=int8", "microbatch=1", "hosts.count=1",
                        "model.build._target_=test_convolutions.odd")  # fmt: skip
    (note,) = [note for note in plan.notes if "left in fp32" in note]
    assert "2 convolutions" in note  # uneven, alone
    x = torch.randn(1, 3, 24, 20)
    with torch.no_grad():
        assert 0 < squared_error([(run(plan, tmp_path / "outputs", x), odd()(x))]) < 3e-3
