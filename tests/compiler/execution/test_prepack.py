"""Prepacked weights give the same results, are used where they pay, and are there once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgecompile.artifacts.shards import Frozen, freeze_module
from edgecompile.contract.plan import Stage
from edgecompile.execution import prepack, torchscript
from edgecompile.execution.prepack import pays_here, prepack_traced, rows_in
from edgelaunch.pipeline.stage_shard import load_shard, load_shard_soon

WIDTH = 768
ROWS = 24


class Products(nn.Module):
    """A bias, none, a weight read twice, one that an embedding reads too, GPT-2's addmm, and one too small."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WIDTH, WIDTH)
        self.first, self.bare = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.matrix, self.offset = nn.Parameter(torch.randn(WIDTH, WIDTH) / 28), nn.Parameter(torch.randn(WIDTH))
        self.small = nn.Linear(WIDTH, 8)

    def forward(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.bare(self.bare(self.first(value))))
        hidden = hidden + self.embedding(hidden.argmax(-1))
        hidden = nn.functional.linear(hidden, self.embedding.weight)
        hidden = torch.addmm(self.offset, hidden.view(-1, WIDTH), self.matrix).view(value.shape)
        return hidden, self.small(hidden)


@pytest.fixture(scope="module")
def frozen_products() -> tuple[Callable[[], Frozen], torch.Tensor]:
    torch.manual_seed(0)
    module, value = Products().eval(), torch.randn(2, ROWS // 2, WIDTH)
    return lambda: freeze_module(module, (value,)), value


def largest_difference(got: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> float:
    pairs = zip(got, wanted, strict=True)
    return max(float((mine - other).abs().max() / other.abs().max()) for mine, other in pairs)


def pointwise_calls(stage: Callable[..., object], *inputs: torch.Tensor) -> int:
    with torch.profiler.profile() as seen:
        stage(*inputs)
    return sum(event.count for event in seen.key_averages() if event.key == "mkldnn::_linear_pointwise")


@pytest.mark.slow
def test_results_are_those_of_the_plain_products(frozen_products: tuple[Callable[[], Frozen], torch.Tensor]) -> None:
    frozen, value = frozen_products[0](), frozen_products[1]
    assert frozen.rows == [ROWS] * 6
    packed = prepack_traced(frozen.module, frozen.rows)
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        assert largest_difference(packed(value), frozen.module(value)) < 1e-5
        assert pointwise_calls(packed, value) == 5
        assert pointwise_calls(frozen.module, value) == 0


@pytest.mark.slow
def test_weights_are_let_go_of_unless_something_else_reads_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    value = torch.randn(2, ROWS // 2, WIDTH)
    frozen = freeze_module(Products().eval(), (value,))
    torchscript.save(frozen.module, str(tmp_path / "own.pt"))
    own = torchscript.load(str(tmp_path / "own.pt"))
    packed = prepack_traced(own, frozen.rows, consume=True)
    constants = [node.output() for node in own.graph.nodes() if node.kind() == "prim::Constant"]
    tensors = [value.node().t("value") for value in constants if value.type().kind() == "TensorType"]
    assert sorted(tensor.numel() for tensor in tensors if tensor.dim() == 2) == [8 * WIDTH, WIDTH * WIDTH]
    assert sum(tensor.numel() == 0 for tensor in tensors) == 3
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        assert largest_difference(packed(value), frozen.module(value)) < 1e-5


@pytest.mark.slow
def test_weights_of_several_modules_are_packed_once(
    frozen_products: tuple[Callable[[], Frozen], torch.Tensor],
) -> None:
    make, value = frozen_products
    known: dict[int, torch.Tensor] = {}
    for _ in range(2):
        frozen = make()
        packed = prepack_traced(frozen.module, frozen.rows, known=known)
        assert largest_difference(packed(value), frozen.module(value)) < 1e-5
        assert len(known) == 4


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[], [ROWS] * 5, [1] * 6])
def test_without_the_rows_of_each_product_nothing_is_packed(
    rows: list[int], frozen_products: tuple[Callable[[], Frozen], torch.Tensor]
) -> None:
    module = frozen_products[0]().module
    assert prepack_traced(module, rows) is module


@pytest.mark.parametrize(
    ("module", "value"),
    [
        (nn.Linear(16, 16), torch.randn(8, 16)),
        (nn.Linear(WIDTH, WIDTH), torch.randn(1, WIDTH)),
        (nn.Linear(WIDTH, WIDTH).double(), torch.randn(8, WIDTH).double()),
    ],
    ids=["small", "one row", "float64"],
)
def test_what_does_not_pay_is_left_alone(module: nn.Module, value: torch.Tensor) -> None:
    frozen = freeze_module(module.eval(), (value,))
    assert prepack_traced(frozen.module, frozen.rows) is frozen.module


def test_a_scaled_addmm_is_left_alone() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.randn(WIDTH))

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.bias, value, self.weight, alpha=0.5)

    frozen = freeze_module(Scaled().eval(), (torch.randn(ROWS, WIDTH),))
    assert prepack_traced(frozen.module, frozen.rows) is frozen.module


@pytest.mark.parametrize("record", ["", b"", "{", '{"a": 1}', '["x"]', "null"])
def test_a_record_that_is_none_holds_no_rows(record: str | bytes) -> None:
    assert rows_in(record) == []


@pytest.mark.slow
@pytest.mark.parametrize("artifact", ["torchscript", "pt2"])
def test_shards_are_packed_when_they_are_loaded(artifact: str, tmp_path: Path, prepack_plan: PlanOf) -> None:
    folder, stages = prepack_plan(artifact)
    value = torch.randn(stages[0].inputs[0].shape)
    plain = packed = (value,)
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        for stage in stages:
            before = plain
            plain = load_shard(stage, folder, "cpu", "never")(*plain)
            shard = load_shard(stage, folder, "cpu", "always")
            assert pointwise_calls(shard, *before) > 0
            packed = shard(*packed)
    assert largest_difference(packed, plain) < 1e-5


@pytest.mark.slow
def test_the_first_microbatch_need_not_wait_for_the_packing(prepack_plan: PlanOf) -> None:
    folder, stages = prepack_plan("torchscript")
    values = [torch.randn(spec.shape) for spec in stages[0].inputs]
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        shard = load_shard_soon(stages[0], folder, "cpu", "always")
        plain = load_shard(stages[0], folder, "cpu", "never")(*values)
        assert pointwise_calls(shard, *values) == 0
        assert pointwise_calls(shard, *values) > 0
        assert largest_difference(shard(*values), plain) < 1e-5


PlanOf = Callable[[str], "tuple[Path, tuple[Stage, ...]]"]


@pytest.fixture
def prepack_plan(tmp_path: Path) -> PlanOf:
    from compiler_helpers import compile_into

    def plan_of(artifact: str) -> tuple[Path, tuple[Stage, ...]]:
        overrides = ("model=deit_small", "++model.build.config.num_hidden_layers=2", f"artifact={artifact}")
        plan = compile_into(tmp_path, *overrides, "hosts.count=2", "schedule=even", "microbatch=2")
        return tmp_path, plan.stages

    return plan_of


@pytest.mark.parametrize(
    ("policy", "machine", "vendor", "expected"),
    [
        ("auto", "x86_64", "AuthenticAMD", True),
        ("auto", "x86_64", "GenuineIntel", False),
        ("auto", "aarch64", "", False),
        ("always", "x86_64", "GenuineIntel", True),
        ("never", "x86_64", "AuthenticAMD", False),
    ],
)
def test_where_it_pays(policy: str, machine: str, vendor: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepack.platform, "machine", lambda: machine)
    monkeypatch.setattr(
        prepack.Path, "read_text", lambda self, encoding=None: f"vendor_id\t: {vendor}\nflags\t: avx2\n"
    )
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    prepack._x86_of_others.cache_clear()
    assert pays_here(policy) == expected
    prepack._x86_of_others.cache_clear()


class Turned(nn.Module):
    """A square weight, and the same turned: both begin at one address."""

    def __init__(self) -> None:
        super().__init__()
        self.square = nn.Parameter(torch.randn(WIDTH, WIDTH) / 28)
        self.tall = nn.Parameter(torch.randn(2 * WIDTH, WIDTH) / 28)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.linear(torch.tanh(nn.functional.linear(x, self.square)), self.square.t())
        return nn.functional.linear(x, self.tall[:WIDTH]) + nn.functional.linear(x, self.tall).sum(-1, keepdim=True)


def test_weights_that_begin_at_one_address_are_told_apart() -> None:
    model, value = Turned().eval().requires_grad_(False), torch.randn(ROWS, WIDTH)
    frozen = freeze_module(model, (value,))
    known: dict[Hashable, torch.Tensor] = {}
    packed = prepack_traced(frozen.module, frozen.rows, known=known)
    assert len(known) == 4
    torch.testing.assert_close(packed(value), model(value), rtol=1e-4, atol=1e-3)


def test_weights_of_eight_bits_are_prepacked_wherever_there_are_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepack, "_x86_of_others", lambda: False)
    for there in (True, False):
        monkeypatch.setattr(prepack, "fast_here", lambda precision, there=there: there)
        assert prepack.pays_here("auto", "int8") is there
        assert not prepack.pays_here("auto", "bf16")
        assert not prepack.pays_here("never", "int8")
