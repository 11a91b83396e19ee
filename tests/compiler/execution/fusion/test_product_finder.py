"""Products of codes in a graph become one call where one reads the other, and results stay what they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgecompile.artifacts.weight_codes import weight_codes
from edgecompile.execution import torchscript
from edgecompile.execution.attention import register_attention
from edgecompile.execution.fusion.fused_products import FUSED_PRODUCTS
from edgecompile.execution.fusion.native_code import native
from edgecompile.execution.fusion.product_finder import fuse_products
from edgecompile.execution.fusion.product_kinds import EIGHT_BITS, FOUR_BITS, Kind
from edgecompile.execution.graph_folding import fold_graph
from edgecompile.execution.low_precision import register_operators
from edgecompile.execution.row_kernels import NORMALIZE
from edgecompile.execution.weight_only import register_weight_operators

pytestmark = pytest.mark.skipif(native is None, reason="the native module is not built")
each_kind = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            EIGHT_BITS,
            marks=pytest.mark.skipif(not EIGHT_BITS.runs(), reason="needs instructions for eight bits"),
            id="8",
        ),
        pytest.param(FOUR_BITS, id="4"),
    ],
)
register_operators()
register_weight_operators()
register_attention()
SIZES = {
    "out": (64, 64),
    "gate": (96, 64),
    "up": (96, 64),
    "down": (64, 96),
    "q": (64, 64),
    "k": (32, 64),
    "v": (32, 64),
    "head": (40, 64),
    "one": (1, 64),
}
POSITIONS, SLOTS = torch.arange(5).repeat(3, 1), torch.arange(3)


def codes(kind: Kind, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    if kind is FOUR_BITS:
        return weight_codes(weight, 4)
    scale = weight.abs().amax(1) / 127
    return {"codes": (weight / scale[:, None]).round().to(torch.int8), "scale": scale}


class Weights(nn.Module):
    """A function of a residual stream, of what attention gave, and of products by name."""

    def __init__(self, kind: Kind, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        name = kind.operator.partition("::")[2]
        self.operator = getattr(torch.ops.edgecompile, name)
        for index, (name, (out, into)) in enumerate(SIZES.items()):
            generator = torch.Generator().manual_seed(index)
            for key, value in codes(kind, torch.randn(out, into, generator=generator) / 8).items():
                self.register_buffer(f"{name}_{key}", value)
            self.register_buffer(f"{name}_bias", torch.randn(out, generator=generator))
        self.register_buffer("norm", torch.rand(64, generator=torch.Generator().manual_seed(9)) + 0.5)

    def product(self, name: str, x: torch.Tensor, *, biased: bool = False) -> torch.Tensor:
        bias = getattr(self, f"{name}_bias") if biased else None
        found: torch.Tensor = self.operator(x, getattr(self, f"{name}_codes"), getattr(self, f"{name}_scale"), bias)
        return found

    def normal(self, x: torch.Tensor) -> torch.Tensor:
        norm: Any = self.norm
        normal: torch.Tensor = norm * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        return normal

    def forward(self, x: torch.Tensor, attended: torch.Tensor) -> Any:
        return self.function(self, x, attended)


def traced(kind: Kind, function: Callable[..., Any], *inputs: torch.Tensor) -> Any:
    return torchscript.freeze(torchscript.trace(Weights(kind, function).eval(), inputs))


def fused(
    kind: Kind, function: Callable[..., Any], *, consume: bool = False
) -> tuple[list[str], list[torch.Tensor], list[torch.Tensor]]:
    """The kinds of the calls, and what the function gives before and after."""
    inputs = (torch.randn(3, 5, 64), torch.randn(3, 5, 64))
    module = traced(kind, function, *inputs)
    wanted = module(*inputs)
    graph = module.graph.copy()
    made = fuse_products(graph, consume=consume)
    fold_graph(graph)
    graph.eraseInput(0)
    torch._C._jit_pass_dce(graph)
    kinds = [node.kind() for node in graph.nodes()]
    assert kinds.count(FUSED_PRODUCTS) == len(made)
    assert not {kind.operator, "edgecompile::product", "aten::rsqrt", "aten::silu"} & set(kinds)
    found = torch._C._create_function_from_graph("forward", graph)(*inputs)
    as_list = [value if isinstance(value, tuple) else (value,) for value in (wanted, found)]
    return sorted(one for one in kinds if one in (FUSED_PRODUCTS, NORMALIZE)), list(as_list[0]), list(as_list[1])


def near(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted)
    for value, true in zip(found, wanted, strict=True):
        assert value.shape == true.shape
        torch.testing.assert_close(value, true, atol=0.1, rtol=2**-5)
        assert float((value - true).abs().mean()) < 0.01


def gated(of: Weights, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return of.product("down", functional.silu(gate) * up)


def layer(of: Weights, x: torch.Tensor, attended: torch.Tensor, *, biased: bool = False) -> tuple[torch.Tensor, ...]:
    x = x + of.product("out", attended, biased=biased)
    normal = of.normal(x)
    x = gated(of, of.product("gate", normal, biased=biased), of.product("up", normal, biased=biased)) + x
    normal = of.normal(x)
    return *(of.product(name, normal, biased=biased) for name in "qkv"), x


@each_kind
@pytest.mark.parametrize("biased", [False, True])
def test_all_between_two_attentions_is_one_call(kind: Kind, *, biased: bool) -> None:
    kinds, wanted, found = fused(kind, lambda *given: layer(*given, biased=biased))
    assert kinds == [FUSED_PRODUCTS]
    near(found, wanted)


@each_kind
@pytest.mark.parametrize("consume", [False, True])
def test_layers_with_attention_are_one_call_each_and_one_before(kind: Kind, *, consume: bool) -> None:
    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (value.reshape(3, 5, -1, 16).transpose(1, 2) for value in (q, k, v))
        return torch.ops.edgecompile.attend(q, k, v, POSITIONS, SLOTS, 0, 0.25, 0, 0.0, None).reshape(3, 5, 64)  # type: ignore[no-any-return]

    def layers(of: Weights, x: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, ...]:
        normal = of.normal(x)
        q, k, v = (of.product(name, normal) for name in "qkv")
        q, k, v, between = layer(of, x, attention(q, k, v))
        *_, x = layer(of, between, attention(q, k, v))
        return x, between

    kinds, wanted, found = fused(kind, layers, consume=consume)
    assert kinds == [FUSED_PRODUCTS] * 3
    near(found, wanted)


@each_kind
@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        pytest.param(
            lambda of, x, _: of.product("head", of.normal(x)), [FUSED_PRODUCTS], id="normalized"),
        pytest.param(
            lambda of, x, _: (of.product("q", n := of.normal(x)), n), [FUSED_PRODUCTS, NORMALIZE],
            id="normalized and used elsewhere"),
        pytest.param(
            lambda of, x, _: of.product("out", x, biased=True).relu(), [FUSED_PRODUCTS], id="with a bias"),
        pytest.param(
            lambda of, x, _: (of.product("q", x, biased=True), of.product("k", x)), [FUSED_PRODUCTS],
            id="one with a bias, one without"),
        pytest.param(
            lambda of, x, other: (of.normal(x), x + of.product("out", other, biased=True)),
            [FUSED_PRODUCTS, NORMALIZE], id="added to what is normalized"),
        pytest.param(
            lambda of, x, other: other[:1] + of.product("out", x), [FUSED_PRODUCTS], id="added to other rows"),
        pytest.param(
            lambda of, x, other: of.product("one", x) + other, [FUSED_PRODUCTS], id="added to more channels"),
        pytest.param(
            lambda of, x, other: torch.add(of.product("out", x), other, alpha=2), [FUSED_PRODUCTS], id="added twice"),
        pytest.param(
            lambda of, x, other: of.product("out", x) + other.exp().cumsum(0), [FUSED_PRODUCTS],
            id="added to what comes later"),
        pytest.param(
            lambda of, x, _: ((y := of.product("out", x)) + y, y * 2), [FUSED_PRODUCTS], id="read several times"),
        pytest.param(
            lambda of, x, _: gated(of, g := of.product("gate", x), of.product("up", x)) + g[..., :1],
            [FUSED_PRODUCTS] * 2, id="gate used elsewhere"),
        pytest.param(
            lambda of, x, _: gated(of, of.product("gate", x), of.product("up", x.relu())), [FUSED_PRODUCTS] * 2,
            id="gate of other rows"),
        pytest.param(
            lambda of, x, _: gated(of, of.product("up", x), of.product("gate", x)), [FUSED_PRODUCTS],
            id="the other one is the gate"),
        pytest.param(
            lambda of, x, _: gated(of, g := of.product("gate", x), g), [FUSED_PRODUCTS], id="gated by itself"),
        pytest.param(
            lambda of, x, other: (y := x + of.product("out", other), of.normal(x), of.product("q", of.normal(y))),
            [FUSED_PRODUCTS, NORMALIZE], id="what is normalized is used elsewhere"),
        pytest.param(
            lambda of, x, _: of.product("out", of.product("q", x)[..., :32].repeat(1, 1, 2)), [FUSED_PRODUCTS] * 2,
            id="something else between"),
        pytest.param(
            lambda of, x, other: of.product("out", other) + of.product("q", x.relu()), [FUSED_PRODUCTS],
            id="two products added"),
        pytest.param(
            lambda of, x, other: x + (of.product("out", other) + gated(of, of.product("gate", x), of.product("up", x))),
            [FUSED_PRODUCTS], id="attention and what follows it side by side"),
    ],
)  # fmt: skip
def test_what_does_not_fit_stays(kind: Kind, function: Any, kinds: list[str]) -> None:
    before, wanted, found = fused(kind, function)
    assert before == kinds
    near(found, wanted)


@each_kind
@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_any_graph_gives_what_it_gave(kind: Kind, block: int) -> None:
    for seed in range(block * 25, (block + 1) * 25):
        try:
            _, wanted, found = fused(kind, drawn(random.Random(seed)), consume=bool(seed % 2))
            near(found, wanted)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


def drawn(chance: random.Random) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Products, sums, gates and normalizations of each other's results, in any order, some of them used elsewhere."""
    steps = [
        (chance.randrange(7), chance.random(), chance.random(), chance.random()) for _ in range(chance.randint(2, 9))
    ]
    kept = [chance.random() < 0.3 for _ in steps]

    def function(of: Weights, x: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x, other]
        for what, first, second, third in steps:
            one, two = (values[int(place * len(values))] for place in (first, second))
            name, biased = ("out", "q")[third < 0.5], third * 7 % 1 < 0.3
            if what == 0:
                made = of.product(name, one, biased=biased)
            elif what == 1:
                made = of.product(name, of.normal(one), biased=biased)
            elif what == 2:
                made = one + of.product(name, two, biased=biased)
            elif what == 3:
                made = of.product("out", one) + of.product("q", two)
            elif what == 4:
                made = gated(of, of.product("gate", of.normal(one)), of.product("up", of.normal(two)))
            elif what == 5:
                made = of.product(name, torch.cat([of.product("k", one), of.product("v", one)], -1)) + two
            else:
                made = of.normal(one + two)
            values.append(made)
        results = [value for value, keep in zip(values[2:], kept, strict=True) if keep]
        return *results, values[-1]

    return function


@each_kind
def test_each_result_that_is_read_later_comes_back(kind: Kind) -> None:
    def function(of: Weights, x: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = x + of.product("out", attended)
        second = first + of.product("q", of.normal(first))
        return of.product("k", of.normal(second)), of.normal(x), first, second

    kinds, wanted, found = fused(kind, function)
    assert kinds == [FUSED_PRODUCTS, NORMALIZE]
    near(found, wanted)


def test_codes_go_unless_an_embedding_reads_them() -> None:
    def function(of: Weights, x: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        codes: Any = of.head_codes
        rows = torch.ops.edgecompile.embedding_weights4(places.to(torch.int64), codes, of.head_scale)
        return rows, of.product("head", x), of.product("q", x), of.product("q", x.relu())

    graph = traced(FOUR_BITS, function, torch.randn(2, 64), torch.zeros(2)).graph.copy()
    read = [node.inputsAt(index).node().t("value") for node in graph.findAllNodes("edgecompile::linear_weights4")
            for index in (1, 2)][:4]  # fmt: skip
    shapes = [tuple(value.shape) for value in read]
    assert shapes == [(40, 32), (2, 40, 2), (64, 32), (2, 64, 2)]
    fuse_products(graph, consume=True)
    assert [value.numel() > 0 for value in read] == [True, True, False, False]


@each_kind
def test_several_threads_leave_graphs_as_they_are(kind: Kind) -> None:
    graph = traced(kind, layer, torch.randn(2, 64), torch.randn(2, 64)).graph.copy()
    before, text = torch.get_num_threads(), str(graph)
    torch.set_num_threads(2)
    try:
        assert fuse_products(graph) == []
    finally:
        torch.set_num_threads(before)
    assert str(graph) == text
