"""Each pass changes what its name says, keeps the result, and can be switched off."""

from __future__ import annotations

from collections.abc import Callable

import ordinary
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional

from edgecompile.config.methods import CaptureMethod
from edgecompile.config.model_spec import InputSpec, ModelSpec
from edgecompile.contract.errors import UserError
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.graphs import facts_of, op_name
from edgecompile.frontend.capture.trace import capture
from edgecompile.frontend.passes import PASSES, run_passes
from edgecompile.frontend.passes.drop_guards import drop_guards

Names = Callable[[fx.GraphModule], list[str]]


def graphs(
    module: nn.Module, *inputs: torch.Tensor, off: str, method: CaptureMethod = CaptureMethod.export
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The module's graph with all passes, and with one switched off; both give the module's own results."""
    names = [f"x{index}" for index, _ in enumerate(inputs)]
    specs = tuple(InputSpec(name=name, shape=(), dtype="float32", fill=None, high=None) for name in names)
    flat = FlatModel(module.eval().requires_grad_(False), names, ())
    captured = capture(flat, ModelSpec(name="m", build={}, inputs=specs, outputs=()), inputs, method)
    expected = flat(*(value.clone() for value in inputs))
    results = []
    for switches in ({}, {off: False}):
        graph_module = run_passes(captured_copy(captured), inputs, switches).graph_module
        for got, wanted in zip(graph_module(*inputs), expected, strict=True):
            assert torch.allclose(got, wanted, atol=1e-5)
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
    class Guarded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._assert(x.isfinite().all(), "not finite")
            return x * 2

    traced = fx.symbolic_trace(Guarded())
    assert "_assert" in operators(traced)
    assert drop_guards(traced) == 1
    assert "_assert" not in operators(traced)


@pytest.mark.slow
def test_drop_dropout() -> None:
    with_pass, _ = graphs(Block(), INPUT, off="drop_dropout")
    assert "dropout" not in operators(with_pass)


@pytest.mark.slow
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


@pytest.mark.slow
def test_drop_devices() -> None:
    with_pass, _ = graphs(Block(), INPUT, off="drop_devices")
    for node in with_pass.graph.nodes:
        assert not any(isinstance(value, torch.device) for value in (*node.args, *node.kwargs.values()))


@pytest.mark.slow
def test_drop_copies() -> None:
    with_pass, without = graphs(Block(), INPUT, off="drop_copies")
    assert {"clone", "contiguous"} & set(operators(without))
    assert not {"clone", "contiguous"} & set(operators(with_pass))


@pytest.mark.slow
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


@pytest.mark.slow
def test_views_sink_to_their_readers() -> None:
    with_pass, _ = graphs(Block(), INPUT, off="sink_views")
    nodes = list(with_pass.graph.nodes)
    attention = next(node for node in nodes if op_name(node) == "scaled_dot_product_attention")
    before = [op_name(node) for node in nodes[nodes.index(attention) - 2 : nodes.index(attention)]]
    assert before == ["reshape", "transpose"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PASSES)
def test_every_pass_can_be_switched_off(name: str) -> None:
    graphs(Block(), INPUT, off=name)


def test_unknown_pass() -> None:
    with pytest.raises(UserError, match=r"passes\.fold_everything.*fold_constants"):
        graphs(Block(), INPUT, off="fold_everything")


class Selects(nn.Module):
    """Three layers, a selection, and one layer more."""

    def __init__(self, select: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.select = select

    def forward(self, x0: torch.Tensor) -> torch.Tensor:
        h = self.layers[1](functional.gelu(self.layers[0](x0))) + torch.arange(7.0)[:, None]
        return self.layers[3](self.select(self.layers[2](h)))


SELECTIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
    "x[:, -1]": (lambda h: h[:, -1], 1),
    "x[:, 3]": (lambda h: h[:, 3], 1),
    "x[:, 1:-1]": (lambda h: h[:, 1:-1], 5),
    "x[:, -3:-1]": (lambda h: h[:, -3:-1], 2),
    "x[:, -1:]": (lambda h: h[:, -1:], 1),
    "x[:, :-2]": (lambda h: h[:, :-2], 5),
    "x[:, -100:2]": (lambda h: h[:, -100:2], 2),
    "x[:, 5:100]": (lambda h: h[:, 5:100], 2),
    "x[:, ::2]": (lambda h: h[:, ::2], 7),
    "x[:, :]": (lambda h: h[:, :], 7),
    "x[..., 2, :]": (lambda h: h[..., 2, :], 1),
    "select(-2, -2)": (lambda h: torch.select(h, dim=-2, index=-2), 1),
    "narrow": (lambda h: torch.narrow(h, 1, -3, 2), 2),
    "slice(None, 5, 2)": (lambda h: torch.ops.aten.slice.Tensor(h, 1, None, 5, 2), 7),
    "slice(None, 5)": (lambda h: torch.ops.aten.slice.Tensor(h, 1, None, 5), 5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SELECTIONS)
def test_selections_as_people_write_them(name: str) -> None:
    """The result stays, and layers before compute what is read alone, steps apart."""
    select, num_rows = SELECTIONS[name]
    with_pass, _ = graphs(Selects(select), INPUT, off="push_selection_up")
    linear = [node for node in with_pass.graph.nodes if op_name(node) == "linear"]
    assert facts_of(linear[0])[0].shape[1] == num_rows
    assert all("facts" in node.meta for node in with_pass.graph.nodes if node.op != "output")


def test_two_selections_of_one_tensor_leave_nothing_behind() -> None:
    """Neither can be moved, since the other reads the rest."""
    with_pass, without = graphs(Selects(lambda h: h[:, -1] + h[:, 2:-2].sum(1)), INPUT, off="push_selection_up")
    assert operators(with_pass) == operators(without)


@pytest.mark.parametrize("end", [-1, 2])
def test_a_causal_query_stays_where_it_is(end: int) -> None:
    class Causal(nn.Module):
        def forward(self, x0: torch.Tensor) -> torch.Tensor:
            h = x0.view(2, 7, 2, 8).transpose(1, 2)
            h = functional.scaled_dot_product_attention(h, h, h, is_causal=True)
            return h.transpose(1, 2).reshape(2, 7, 16)[:, end]

    graphs(Causal(), INPUT, off="push_selection_up")


def test_lazy_conjugates_are_no_identities() -> None:
    class Conjugates(nn.Module):
        def forward(self, x0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            conjugate = torch.complex(x0, x0 + 1).conj()
            return conjugate.imag, torch.view_as_real(conjugate.resolve_conj() * 2)

    with_passes, _ = graphs(Conjugates(), INPUT, off="drop_identities")
    assert any("conj" in name for name in operators(with_passes))


def test_operators_that_read_memory_keep_their_layout() -> None:
    """Whatever the layout and the offset of what arrives."""
    module = ordinary.Windows().eval()
    with_passes, _ = graphs(module, torch.randn(2, 6, 16), off="drop_copies")
    x = torch.randn(2, 16, 6)
    buffer = torch.randn(2 * 6 * 16 + 3)
    buffer[3:].copy_(x.transpose(1, 2).reshape(-1))
    with torch.no_grad():
        expected = module(x.transpose(1, 2).contiguous())
        for arrived in (x.transpose(1, 2), buffer[3:].view(2, 6, 16)):
            for got, wanted in zip(with_passes(arrived), expected, strict=True):
                assert torch.allclose(got, wanted, atol=1e-6)


def test_what_nobody_has_written_is_folded_to_zeros() -> None:
    """The memory's old content would be other bytes in every compilation."""

    class Fills(nn.Module):
        def forward(self, x0: torch.Tensor) -> torch.Tensor:
            whole = torch.empty(64, 16)
            whole[:7] = x0[0]
            return whole[:7] + x0

    with_pass, _ = graphs(Fills(), INPUT, off="fold_constants")
    folded = [value for name, value in with_pass.named_buffers() if name.startswith("folded")]
    assert [tuple(value.shape) for value in folded] == [(64, 16)]
    assert not folded[0].any()


def test_symbolic_trace_names_no_device_and_takes_arguments_by_name() -> None:
    class Named(nn.Module):
        def forward(self, x0: torch.Tensor) -> torch.Tensor:
            h = functional.layer_norm(input=x0.to(x0.device), normalized_shape=(16,)).cpu().to("cpu")
            h = functional.dropout(input=h, p=0.5, training=False) + torch.arange(16, device=x0.device)
            h = functional.scaled_dot_product_attention(query=h, key=h, value=h)
            return h.transpose(1, 2).contiguous().view(2, -1)

    with_passes, _ = graphs(Named(), INPUT, off="drop_copies", method=CaptureMethod.symbolic_trace)
    for node in with_passes.graph.nodes:
        assert not any(isinstance(value, (torch.device, str)) for value in (*node.args, *node.kwargs.values()))
    assert "dropout" not in operators(with_passes)


Step = Callable[[torch.Tensor], torch.Tensor]
STEPS: dict[str, Step] = {
    "row norm": lambda h: functional.layer_norm(h, h.shape[-1:]),
    "norm of all": lambda h: functional.layer_norm(h, h.shape[1:]),
    "gelu of a product": lambda h: functional.gelu(h @ torch.eye(h.shape[2]).flip(0)),
    "positions": lambda h: h + torch.arange(h.shape[1] * 1.0)[:, None],
    "scale by channel": lambda h: h * torch.linspace(-1, 1, h.shape[2]),
    "rows in one axis": lambda h: h.reshape(-1, h.shape[2]).sigmoid().reshape(h.shape),
    "turned copy": lambda h: h.transpose(1, 2).contiguous().view(len(h), -1, h.shape[1]).transpose(1, 2),
    "mean, expanded": lambda h: h.mean(1, keepdim=True).expand_as(h) - h,
    "attention": lambda h: functional.scaled_dot_product_attention(h, h, h),
    "causal attention": lambda h: functional.scaled_dot_product_attention(h, h, h, is_causal=True),
    "masked attention": lambda h: functional.scaled_dot_product_attention(h, h, h, h.mean(-1)[:, None]),
    "heads": lambda h: h.unflatten(2, (2, 8)).transpose(1, 2).exp().transpose(1, 2).flatten(2),
    "twice": lambda h: torch.cat([h, h[:, -1:] * 2], 1),
    "half": lambda h: h.chunk(2, 1)[-1],
    "all but the ends": lambda h: torch.cat([h[:, 1:-1], h[:, :2]], 1),
    "every other": lambda h: torch.cat([h[:, ::2], h[:, 1::2]], 1),
    "taken apart": lambda h: torch.stack(h.unbind(1)[::-1], 1),
    "one token for all": lambda h: h[:, -1].unsqueeze(1) + h,
    "chosen": lambda h: h + h[:, torch.tensor([0, -1])].sum(1, keepdim=True),
    "windows": lambda h: h.contiguous().as_strided((len(h), h.shape[1], 8), (h[0].numel(), 16, 1), 8).repeat(1, 1, 2),
    "pairs": lambda h: torch.view_as_real(
        torch.view_as_complex(h.unflatten(2, (2, 8)).transpose(2, 3).contiguous()).conj().resolve_conj()
    ).flatten(2),
    "negative": lambda h: torch.complex(h, h.tanh()).conj().imag,
    "double": lambda h: (h.double() * 1.5).float(),
    "bits": lambda h: (h.contiguous().view(torch.int32) & ~0xFF).view(torch.float32),
    "where": lambda h: torch.where(h > 0, h, h[:, :1]),
    "filled": lambda h: h.masked_fill(torch.arange(h.shape[1])[:, None] == 1, 0.5),
}
ENDS: list[Step] = [lambda h: h, lambda h: h[:, -1], lambda h: h[:, 1:-1], lambda h: h[:, 0], lambda h: h[:, -2:]]


class Composed(nn.Module):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps, self.layer = steps, nn.Linear(16, 16)

    def forward(self, x0: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x0 = step(self.layer(x0))
        return x0


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(names=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=5), end=st.sampled_from(ENDS))
def test_passes_keep_the_result_of_any_model(names: list[str], end: Step) -> None:
    graphs(Composed([*(STEPS[name] for name in names), end]), torch.randn(3, 7, 16), off="push_selection_up")
