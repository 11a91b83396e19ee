"""Patterns that models write become a rank's own operators, and nothing else does: results stay what they were."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from edgecompile.execution import torchscript
from edgecompile.execution.attention import register_attention
from edgecompile.execution.graph_folding import fold_graph
from edgecompile.execution.row_kernels import (
    GATE_AND_SCALE,
    NORMALIZE,
    NORMALIZE_AND_SCALE,
    register_row_kernels,
)

register_attention()
register_row_kernels()
WEIGHTS = torch.randn(16, generator=torch.Generator().manual_seed(0))
POSITIONS, SLOTS = torch.arange(3).repeat(2, 1), torch.arange(2)


def folded(function: Callable[..., Any], *inputs: torch.Tensor) -> tuple[Any, Any, Any]:
    """The graph with its patterns folded, and what the function gives before and after."""
    module = torchscript.freeze(torchscript.trace(_Module(function).eval(), inputs))
    wanted = module(*inputs)
    graph = module.graph.copy()
    fold_graph(graph)
    graph.eraseInput(0)
    torch._C._jit_pass_dce(graph)
    return graph, wanted, torch._C._create_function_from_graph("forward", graph)(*inputs)


class _Module(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("weights", WEIGHTS)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs, weights=self.weights)


def kinds(graph: Any) -> list[str]:
    return [node.kind() for node in graph.nodes()]


def normal(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return weights * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return x * cos + torch.cat((-second(x), first(x)), -1) * sin


def first(x: torch.Tensor) -> torch.Tensor:
    """As a plan's graph has it: one operator, of numbers."""
    part: torch.Tensor = torch.ops.aten.slice.Tensor(x, 3, 0, 4)
    return part


def second(x: torch.Tensor) -> torch.Tensor:
    part: torch.Tensor = torch.ops.aten.slice.Tensor(x, 3, 4, 2**63 - 1)
    return part


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.ops.edgecompile.attend(q, k, v, POSITIONS, SLOTS, 0, 0.3, 0, 0.0, None)
    return result


def test_normalization_goes_with_the_scaling_that_follows_or_stands_by_itself() -> None:
    x = torch.randn(2, 3, 16)
    graph, wanted, found = folded(lambda x, weights: torch.ops.edgecompile.scale_rows(normal(x, weights)), x)
    assert NORMALIZE_AND_SCALE in kinds(graph)
    assert "aten::rsqrt" not in kinds(graph)
    torch.testing.assert_close(found, wanted)
    graph, wanted, found = folded(lambda x, weights: normal(x, weights) + x, x)
    assert NORMALIZE in kinds(graph)
    torch.testing.assert_close(found, wanted)


@pytest.mark.slow
def test_whoever_folds_first_has_the_operators_registered(tmp_path: Path) -> None:
    """A process of its own, as edgeprofile's is: no shard was opened in it, and nothing has eight bits."""
    code = """
import torch
from edgecompile.execution.prepack import prepack_traced
class Normal(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.arange(16.0))
    def forward(self, x):
        return self.weights * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
x = torch.arange(48.0).reshape(3, 16)
with torch.inference_mode():
    module = torch.jit.freeze(torch.jit.trace(Normal().eval(), x))
    torch.testing.assert_close(prepack_traced(module, [])(x), module(x))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_normalization_of_other_axes_or_powers_stays() -> None:
    def other_axis(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return weights * (x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5))

    def other_power(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return weights * (x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 1e-5))

    def of_another(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return weights * ((x + 1) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))

    for function in (other_axis, other_power, of_another):
        graph, wanted, found = folded(function, torch.randn(2, 3, 16))
        assert NORMALIZE not in kinds(graph)
        torch.testing.assert_close(found, wanted)


def test_a_gate_goes_with_the_scaling_unless_something_else_reads_it() -> None:
    x, y = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    graph, wanted, found = folded(lambda x, y, weights: torch.ops.edgecompile.scale_rows(functional.silu(x) * y), x, y)
    assert GATE_AND_SCALE in kinds(graph)
    torch.testing.assert_close(found, wanted)

    def read_twice(x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> Any:
        gated = functional.silu(x) * y
        return (*torch.ops.edgecompile.scale_rows(gated), gated)

    graph, wanted, found = folded(read_twice, x, y)
    assert GATE_AND_SCALE not in kinds(graph)
    torch.testing.assert_close(found, wanted)


def test_rotations_move_into_attention() -> None:
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 3, 8), torch.randn(2, 2, 3, 8)
    cos, sin = torch.randn(2, 1, 3, 8), torch.randn(2, 1, 3, 8)
    graph, wanted, found = folded(
        lambda q, k, v, cos, sin, weights: attention(turned(q, cos, sin), turned(k, cos, sin), v), q, k, v, cos, sin
    )
    assert "edgecompile::attend_rotated" in kinds(graph)
    assert "aten::cat" not in kinds(graph)
    torch.testing.assert_close(found, wanted)


def test_angles_unsqueezed_for_each_use_are_the_same_also_where_the_stage_sends_them() -> None:
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 3, 8), torch.randn(2, 2, 3, 8)
    cos, sin = torch.randn(2, 3, 8), torch.randn(2, 3, 8)

    def sends_angles(q: Any, k: Any, v: Any, cos: torch.Tensor, sin: torch.Tensor, weights: Any) -> Any:
        cos, sin = cos * 2.0, sin * 2.0
        queries = turned(q, cos.unsqueeze(1), sin.unsqueeze(1))
        keys = turned(k, cos.unsqueeze(1), sin.unsqueeze(1))
        return attention(queries, keys, v), cos, sin

    graph, wanted, found = folded(sends_angles, q, k, v, cos, sin)
    assert "edgecompile::attend_rotated" in kinds(graph)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("what", ["angles", "sign", "queries", "order"])
def test_what_is_not_quite_a_rotation_stays(what: str) -> None:
    def other(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        if what == "sign":
            return x * cos - torch.cat((-second(x), first(x)), -1) * sin
        if what == "order":
            return x * cos + torch.cat((-first(x), second(x)), -1) * sin
        return turned(x, sin, cos) if what == "angles" else x

    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 3, 8), torch.randn(2, 2, 3, 8)
    cos, sin = torch.randn(2, 1, 3, 8), torch.randn(2, 1, 3, 8)
    graph, wanted, found = folded(
        lambda q, k, v, cos, sin, weights: attention(other(q, cos, sin), turned(k, cos, sin), v), q, k, v, cos, sin
    )
    assert "edgecompile::attend_rotated" not in kinds(graph)
    torch.testing.assert_close(found, wanted)
