"""Products of four bits in a graph become one call where one reads the other, and results stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgecompile.artifacts.weight_codes import weight_codes
from edgecompile.execution import torchscript
from edgecompile.execution.graph_folding import fold_graph
from edgecompile.execution.packing.packed_products import MULTIPLY, MULTIPLY_AND_KEEP, native
from edgecompile.execution.packing.product_chains import pack_chains
from edgecompile.execution.weight_only import register_weight_operators

pytestmark = pytest.mark.skipif(native is None, reason="the native module is not built")
register_weight_operators()
SIZES = {
    "out": (64, 64),
    "gate": (96, 64),
    "up": (96, 64),
    "down": (64, 96),
    "q": (64, 64),
    "k": (32, 64),
    "head": (40, 64),
}


class Weights(nn.Module):
    """A function of a residual stream, of what attention gave, and of products by name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        for index, (name, (out, into)) in enumerate(SIZES.items()):
            weight = torch.randn(out, into, generator=torch.Generator().manual_seed(index)) / 8
            for key, value in weight_codes(weight, 4).items():
                self.register_buffer(f"{name}_{key}", value)
        self.register_buffer("norm", torch.rand(64, generator=torch.Generator().manual_seed(9)) + 0.5)
        self.register_buffer("bias", torch.randn(64, generator=torch.Generator().manual_seed(10)))

    def product(self, name: str, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        found: torch.Tensor = torch.ops.edgecompile.linear_weights4(
            x, getattr(self, f"{name}_codes"), getattr(self, f"{name}_scale"), bias
        )
        return found

    def normal(self, x: torch.Tensor) -> torch.Tensor:
        norm: Any = self.norm
        normal: torch.Tensor = norm * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        return normal

    def forward(self, x: torch.Tensor, attended: torch.Tensor) -> Any:
        return self.function(self, x, attended)


def packed(function: Callable[..., Any]) -> tuple[list[str], list[torch.Tensor], list[torch.Tensor]]:
    """The kinds of the calls, and what the function gives before and after."""
    inputs = (torch.randn(3, 5, 64), torch.randn(3, 5, 64))
    module = torchscript.freeze(torchscript.trace(Weights(function).eval(), inputs))
    wanted = module(*inputs)
    graph = module.graph.copy()
    fold_graph(graph)
    given = pack_chains(graph)
    assert not graph.findAllNodes("edgecompile::linear_weights4")
    kinds = [node.kind() for node in graph.nodes() if node.kind().startswith("edgecompile::")]
    graph.eraseInput(0)
    found = torch._C._create_function_from_graph("forward", graph)(*inputs, *given)
    as_list = [value if isinstance(value, tuple) else (value,) for value in (wanted, found)]
    return kinds, list(as_list[0]), list(as_list[1])


def near(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted)
    for value, true in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, true, atol=0.1, rtol=2**-5)
        assert float((value - true).abs().mean()) < 0.01


def gated(of: Weights, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return of.product("down", functional.silu(gate) * up)


def layer(of: Weights, x: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x = x + of.product("out", attended)
    normal = of.normal(x)
    x = x + gated(of, of.product("gate", normal), of.product("up", normal))
    normal = of.normal(x)
    return of.product("q", normal), of.product("k", normal), x


def test_all_between_two_attentions_is_one_call() -> None:
    kinds, wanted, found = packed(layer)
    assert kinds == [MULTIPLY_AND_KEEP]
    near(found, wanted)


def test_of_the_last_layer_nothing_is_kept() -> None:
    kinds, wanted, found = packed(lambda *given: layer(*given)[0])
    assert kinds == [MULTIPLY]
    near(found, wanted)


def test_layers_behind_each_other_are_one_call_each() -> None:
    def two(of: Weights, x: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, _, x = layer(of, x, attended)
        return layer(of, x, q.relu())

    kinds, wanted, found = packed(two)
    assert kinds == [MULTIPLY_AND_KEEP] * 2
    near(found, wanted)


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        pytest.param(
            lambda of, x, _: of.product("head", of.normal(x)), [MULTIPLY], id="normalized"),
        pytest.param(
            lambda of, x, _: (of.product("q", n := of.normal(x)), n), ["edgecompile::normalize_rows", MULTIPLY],
            id="normalized and used elsewhere"),
        pytest.param(
            lambda of, x, _: of.product("out", x, of.bias).relu(), [MULTIPLY], id="with a bias"),
        pytest.param(
            lambda of, x, other: (of.normal(x), x + of.product("out", other, of.bias)),
            ["edgecompile::normalize_rows", MULTIPLY], id="added to what is normalized"),
        pytest.param(
            lambda of, x, other: other[:1] + of.product("out", x), [MULTIPLY], id="added to what may be of other rows"),
        pytest.param(
            lambda of, x, _: gated(of, g := of.product("gate", x), of.product("up", x)) + g[..., :1],
            [MULTIPLY] * 2, id="gate used elsewhere"),
        pytest.param(
            lambda of, x, _: gated(of, of.product("gate", x), of.product("up", x.relu())), [MULTIPLY] * 3,
            id="gate of other rows"),
        pytest.param(
            lambda of, x, _: gated(of, of.product("up", x), of.product("gate", x)), [MULTIPLY],
            id="the other one is the gate"),
        pytest.param(
            lambda of, x, other: (y := x + of.product("out", other), of.normal(x), of.product("q", of.normal(y))),
            ["edgecompile::normalize_rows", MULTIPLY_AND_KEEP], id="what is normalized is used elsewhere"),
    ],
)  # fmt: skip
def test_what_does_not_fit_stays(function: Any, kinds: list[str]) -> None:
    before, wanted, found = packed(function)
    assert sorted(before) == sorted(kinds)
    near(found, wanted)


def test_a_stream_that_is_read_later_ends_a_chain() -> None:
    """Only the rows that were kept last come back."""

    def function(of: Weights, x: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = x + of.product("out", attended)
        second = first + of.product("q", of.normal(first))
        return of.product("k", of.normal(second)), of.normal(x), first, second

    kinds, wanted, found = packed(function)
    assert sorted(kinds) == sorted(["edgecompile::normalize_rows", MULTIPLY_AND_KEEP, MULTIPLY])
    near(found, wanted)


def test_codes_go_unless_an_embedding_reads_them() -> None:
    def function(of: Weights, x: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        codes: Any = of.head_codes
        rows = torch.ops.edgecompile.embedding_weights4(places.to(torch.int64), codes, of.head_scale)
        return rows, of.product("head", x), of.product("q", x)

    module = Weights(function)
    traced = torchscript.freeze(torchscript.trace(module.eval(), (torch.randn(2, 64), torch.zeros(2))))
    graph = traced.graph.copy()
    read = [node.inputsAt(index).node().t("value") for node in graph.findAllNodes("edgecompile::linear_weights4")
            for index in (1, 2)]  # fmt: skip
    shapes = [tuple(value.shape) for value in read]
    assert shapes == [(40, 32), (2, 40, 2), (64, 32), (2, 64, 2)]
    pack_chains(graph, consume=True)
    assert [value.numel() > 0 for value in read] == [True, True, False, False]
