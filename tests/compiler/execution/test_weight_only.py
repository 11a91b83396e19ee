"""Products of weights in codes: what codes stand for, and torch's kernels beside the operators of every machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from edgecompile.artifacts.weight_codes import bits_of, weight_codes
from edgecompile.contract.closed_sets import Precision
from edgecompile.execution import torchscript
from edgecompile.execution.weight_only import (
    OPERATORS,
    kernels_here,
    register_weight_operators,
    weights_exported,
    weights_of,
    weights_traced,
)

needs_kernels = pytest.mark.skipif(not kernels_here(), reason="this machine has no fast kernels for such weights")


def weights(out: int, into: int) -> torch.Tensor:
    return torch.randn(out, into, generator=torch.Generator().manual_seed(out)) / 8


@pytest.mark.parametrize(("bits", "steps"), [(8, 254), (4, 15)])
def test_codes_are_within_half_a_step(bits: int, steps: int) -> None:
    weight = weights(48, 96)
    made = weight_codes(weight, bits)
    groups = weight.view(48, -1, 32 if bits == 4 else 96)
    spread = groups.amax(2) - groups.amin(2) if bits == 4 else 2 * groups.abs().amax(2)
    gaps = (weights_of(**made) - weight).abs().view(groups.shape)
    assert bool((gaps <= 0.6 * spread.unsqueeze(2) / steps).all())  # half a step, and what bf16 takes of the scale
    assert made["codes"].numel() * made["codes"].element_size() == weight.numel() * bits // 8


def test_equal_and_zero_weights_have_codes() -> None:
    for bits in (8, 4):
        assert not weights_of(**weight_codes(torch.zeros(16, 64), bits)).any()
        level = weights_of(**weight_codes(torch.full((16, 64), 0.5), bits))
        torch.testing.assert_close(level, torch.full((16, 64), 0.5), atol=0.004, rtol=0)


def test_weights_without_whole_groups_get_eight_bits() -> None:
    assert [bits_of(weights(16, into), Precision.INT4_WEIGHTS) for into in (64, 48)] == [4, 8]
    assert bits_of(weights(16, 64), Precision.INT8_WEIGHTS) == 8


@pytest.mark.parametrize("bits", [8, 4])
def test_large_weights_are_made_in_blocks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = weight_codes(weights(300, 64), bits)
    x, places = torch.randn(3, 64), torch.tensor([[0, 299], [7, 150]])
    whole, rows = OPERATORS[f"linear_weights{bits}"](x, **made, bias=None), weights_of(**made)[places]
    monkeypatch.setattr("edgecompile.artifacts.weight_codes._BLOCK", 64 * 7)
    monkeypatch.setattr("edgecompile.execution.weight_only._BLOCK", 64 * 7)
    for key, value in weight_codes(weights(300, 64), bits).items():
        assert torch.equal(value, made[key])
    torch.testing.assert_close(OPERATORS[f"linear_weights{bits}"](x, **made, bias=None), whole, atol=0, rtol=2**-7)
    assert torch.equal(OPERATORS[f"embedding_weights{bits}"](places, **made), rows)


class Joined(nn.Module):
    """Three products of the same activations, of which one has a bias, and an embedding with the codes of one."""

    def __init__(self, bits: int, out: int = 64) -> None:
        super().__init__()
        register_weight_operators()
        self.product = getattr(torch.ops.edgecompile, f"linear_weights{bits}")
        self.rows = getattr(torch.ops.edgecompile, f"embedding_weights{bits}")
        for name, size in (("one", 64), ("two", out), ("three", 64)):
            for key, value in weight_codes(weights(size, 64), bits).items():
                self.register_buffer(f"{name}_{key}", value)
        self.register_buffer("bias", torch.randn(64))

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        of = dict(self.named_buffers())
        x = x + self.rows(places, of["three_codes"], of["three_scale"])
        found = [self.product(x, of[f"{name}_codes"], of[f"{name}_scale"], None) for name in ("one", "two", "three")]
        return *found, self.product(found[0], of["one_codes"], of["one_scale"], of["bias"])


def _packed(module: nn.Module, examples: tuple[torch.Tensor, ...]) -> Any:
    graph = torchscript.freeze(torchscript.trace(module.eval(), examples)).graph.copy()
    given = weights_traced(graph, consume=True)
    graph.eraseInput(0)
    assert not graph.findAllNodes("edgecompile::linear_weights8") + graph.findAllNodes("edgecompile::linear_weights4")
    function = torch._C._create_function_from_graph("forward", graph)
    return lambda *inputs: function(*inputs, *given)


def _exported(module: nn.Module, examples: tuple[torch.Tensor, ...]) -> Any:
    traced: Any = fx.symbolic_trace(module)
    packed = weights_exported(traced)
    assert not any("linear_weights" in str(node.target) for node in packed.graph.nodes)
    return packed


@needs_kernels
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("packing", [_packed, _exported])
def test_kernels_give_what_the_operators_give(bits: int, packing: Any) -> None:
    x, places = torch.randn(3, 5, 64), torch.randint(0, 64, (3, 5))
    module = Joined(bits)
    wanted = module(x, places)
    found = packing(module, (x, places))(x, places)
    for value, true in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, true, atol=1e-2, rtol=2**-7)
        assert float((value != true).double().mean()) < 0.05  # sums in another order hardly ever round otherwise


class OfAnyWidth(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        register_weight_operators()
        for key, value in weight_codes(weights(out, width), 8).items():
            self.register_buffer(f"of_{key}", value)
        self.register_buffer("bias", torch.randn(out))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        product = torch.ops.edgecompile.linear_weights8
        return product(x, self.of_codes, self.of_scale, None), product(x, self.of_codes, self.of_scale, self.bias)


@needs_kernels
@pytest.mark.parametrize("packing", [_packed, _exported])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 37, 65, 72, 100, 720, 1000])
def test_channels_of_any_width(width: int, packing: Any) -> None:
    for rows, out in ((1, 10), (4, 64), (9, 37)):
        module, x = OfAnyWidth(width, out), torch.randn(rows, 1, width)
        wanted = module(x)
        for value, true in zip(packing(module, (x,))(x), wanted, strict=True):
            torch.testing.assert_close(value, true, atol=1e-2, rtol=2**-7)


@needs_kernels
def test_codes_that_lie_anywhere_in_memory() -> None:
    module, x = OfAnyWidth(64, 64), torch.randn(4, 1, 64)
    wanted, codes = module(x), module.of_codes
    apart = torch.empty(codes.numel() + 16, dtype=torch.int8)
    for begin in (1, 8):  # as in a file of which they are a view
        module.of_codes = apart[begin : begin + codes.numel()].view(codes.shape).copy_(codes)
        for value, true in zip(_exported(module, (x,))(x), wanted, strict=True):
            torch.testing.assert_close(value, true, atol=1e-2, rtol=2**-7)


@needs_kernels
@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_depends_on_no_other(bits: int) -> None:
    x, places = torch.randn(70, 3, 64), torch.randint(0, 64, (70, 3))
    run = _packed(Joined(bits), (x, places))
    whole = run(x, places)
    for row in (0, 41, 69):
        alone = run(x[row : row + 1], places[row : row + 1])
        for value, one in zip(whole, alone, strict=True):
            assert torch.equal(value[row], one[0])


@needs_kernels
def test_channels_that_the_kernel_does_not_take_stay_with_the_operator() -> None:
    x, places = torch.randn(2, 1, 64), torch.zeros(2, 1, dtype=torch.int64)
    module = Joined(4, out=40).eval()
    graph = torchscript.freeze(torchscript.trace(module, (x, places))).graph.copy()
    weights_traced(graph)
    assert len(graph.findAllNodes("edgecompile::linear_weights4")) == 1
