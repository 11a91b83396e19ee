"""Each pass changes what its name says, keeps the result, and can be switched off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from edgecompile.capture import FlatModel, capture
from edgecompile.domain import InputSpec, ModelSpec
from edgecompile.errors import UserError
from edgecompile.graphs import facts_of, op_name
from edgecompile.passes import PASSES, run_passes
from edgecompile.passes.drop_guards import drop_guards
from edgecompile.schema import CaptureMethod

Names = Callable[[fx.GraphModule], list[str]]


def graphs(module: nn.Module, *inputs: torch.Tensor, off: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The module's graph with all passes, and with one switched off; both give the module's own results."""
    names = [f"x{index}" for index, _ in enumerate(inputs)]
    specs = tuple(InputSpec(name=name, shape=(), dtype="float32", fill=None, high=None) for name in names)
    flat = FlatModel(module.eval().requires_grad_(False), names, ())
    captured = capture(flat, ModelSpec(name="m", build={}, inputs=specs, outputs=()), inputs, CaptureMethod.export)
    expected = flat(*inputs)
    results = []
    for switches in ({}, {off: False}):
        graph_module = run_passes(captured_copy(captured), inputs, switches).graph_module
        for got, wanted in zip(graph_module(*inputs), expected, strict=True):
            assert torch.allclose(got, wanted, atol=1e-6)
        results.append(graph_module)
    return results[0], results[1]


def captured_copy(captured):  # type: ignore[no-untyped-def]
    import copy
    from dataclasses import replace

    return replace(captured, graph_module=copy.deepcopy(captured.graph_module))


def operators(graph_module: fx.GraphModule) -> list[str]:
    return [op_name(node) for node in graph_module.graph.nodes if op_name(node)]


class Block(nn.Module):
    """A transformer block as libraries write it: dropout, a computed mask, casts, copies, one token read at the end."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.project = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, 3)

    def forward(self, x0: torch.Tensor) -> torch.Tensor:
        items, tokens, width = x0.shape
        h = self.norm_1(x0)
        split = [
            layer(h).view(items, tokens, self.heads, -1).transpose(1, 2).contiguous()
            for layer in (self.query, self.key, self.value)
        ]
        mask = (torch.arange(tokens, device=x0.device) >= 0)[None, None, None, :].expand(items, 1, tokens, tokens)
        mixed = functional.scaled_dot_product_attention(*split, attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(items, tokens, width).clone()
        x0 = x0 + self.dropout(self.project(mixed.to(x0.device)))
        x0 = x0 + self.mlp(self.norm_2(x0)).to(torch.float32)
        return self.head(x0[:, 0])


INPUT = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))


def test_drop_guards() -> None:
    specs = (InputSpec(name="x0", shape=(), dtype="float32", fill=None, high=None),)
    flat = FlatModel(Block().eval(), ["x0"], ())
    captured = capture(flat, ModelSpec(name="m", build={}, inputs=specs, outputs=()), (INPUT,), CaptureMethod.export)
    guards = operators(captured.graph_module).count("_assert_tensor_metadata")
    assert guards > 0
    assert drop_guards(captured.graph_module) == guards
    assert "_assert_tensor_metadata" not in operators(captured.graph_module)


def test_drop_dropout() -> None:
    with_pass, _ = graphs(Block(), INPUT, off="drop_dropout")
    assert "dropout" not in operators(with_pass)


def test_fold_constants_and_true_masks() -> None:
    class Positions(nn.Module):
        def forward(self, x0: torch.Tensor) -> torch.Tensor:
            return x0 * torch.arange(16, device=x0.device).cos()

    with_pass, without = graphs(Positions(), INPUT, off="fold_constants")
    assert "arange" in operators(without)
    assert operators(with_pass) == ["mul"]
    with_pass, without = graphs(Block(), INPUT, off="drop_true_masks")
    masks = [
        next(node for node in graph.graph.nodes if op_name(node) == "scaled_dot_product_attention").args[3:]
        for graph in (with_pass, without)
    ]
    assert not any(isinstance(item, fx.Node) for item in masks[0])
    assert any(isinstance(item, fx.Node) for item in masks[1])


def test_drop_devices() -> None:
    with_pass, _ = graphs(Block(), INPUT, off="drop_devices")
    for node in with_pass.graph.nodes:
        assert not any(isinstance(value, torch.device) for value in (*node.args, *node.kwargs.values()))


def test_drop_copies() -> None:
    with_pass, without = graphs(Block(), INPUT, off="drop_copies")
    assert {"clone", "contiguous"} & set(operators(without))
    assert not {"clone", "contiguous"} & set(operators(with_pass))


def test_push_selection_up_computes_one_token() -> None:
    with_pass, without = graphs(Block(), INPUT, off="push_selection_up")

    def rows(graph_module: fx.GraphModule) -> list[int]:
        return [facts_of(node)[0].shape[1] for node in graph_module.graph.nodes if op_name(node) == "linear"][:-1]

    assert rows(without) == [7] * 6
    assert sorted(rows(with_pass)) == [1, 1, 1, 1, 7, 7]  # keys and values are read for every token


def test_push_selection_up_leaves_what_others_read() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            states = self.first(x0)
            return states, self.second(states)[:, 2:4]

    with_pass, _ = graphs(Both(), torch.randn(3, 5, 8), off="push_selection_up")
    shapes = [facts_of(node)[0].shape for node in with_pass.graph.nodes if op_name(node) == "linear"]
    assert shapes == [(3, 5, 8), (3, 2, 8)]


def test_push_selection_up_through_a_mask_and_broadcasts() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(8, 8)
            self.scale = nn.Parameter(torch.randn(8))
            self.offset = nn.Parameter(torch.randn(1, 5, 8))

        def forward(self, x0: torch.Tensor, x1: torch.Tensor) -> torch.Tensor:
            q = (self.query(x0) * self.scale + self.offset).unsqueeze(1)
            mask = x1[:, None, :, None].expand(-1, 1, -1, 5) > 0
            mixed = functional.scaled_dot_product_attention(q, x0[:, None], x0[:, None], attn_mask=mask | (mask == 0))
            return torch.nn.functional.layer_norm(mixed.squeeze(1), (8,))[:, -1]

    graphs(Masked(), torch.randn(3, 5, 8), torch.randn(3, 5), off="push_selection_up")


def test_selection_of_features_and_whole_norms_stays() -> None:
    class Stays(nn.Module):
        def forward(self, x0: torch.Tensor) -> torch.Tensor:
            return functional.layer_norm(x0, (5, 8))[:, 1] + functional.linear(x0, torch.ones(8, 8))[:, 1, :].cumsum(1)

    graphs(Stays(), torch.randn(3, 5, 8), off="push_selection_up")


def test_views_sink_to_their_readers() -> None:
    with_pass, _ = graphs(Block(), INPUT, off="sink_views")
    nodes = list(with_pass.graph.nodes)
    attention = next(node for node in nodes if op_name(node) == "scaled_dot_product_attention")
    before = [op_name(node) for node in nodes[nodes.index(attention) - 2 : nodes.index(attention)]]
    assert before == ["reshape", "transpose"]


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_can_be_switched_off(name: str) -> None:
    graphs(Block(), INPUT, off=name)


def test_unknown_pass() -> None:
    with pytest.raises(UserError, match=r"passes\.fold_everything.*fold_constants"):
        graphs(Block(), INPUT, off="fold_everything")
