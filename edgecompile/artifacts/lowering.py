"""Rewrites a stage's products for another precision: the pass that `precision` switches.

Products with weights alone are rewritten. What must not be rounded (softmax, norms, embeddings, sums) stays in float32,
and so do convolutions, other products (of two activations, as in attention, and of weights that are not whole float32
tensors of the model's own), and the modules of `precision.keep`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from edgecompile.artifacts.weight_store import WeightStore
from edgecompile.contract.closed_sets import Precision
from edgecompile.execution.low_precision import LEVELS, linear_int8, register_operators
from edgecompile.frontend.capture.graphs import attribute, op_name
from edgecompile.frontend.chain.products import Product, is_kept, product_of

__all__ = ["LowWeights", "Lowering", "left_alone", "lower"]

_HALF: Mapping[Precision, torch.dtype] = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
_OTHER_PRODUCTS = frozenset({"bmm", "matmul", "mm", "baddbmm", "scaled_dot_product_attention", "einsum", "linear"})


@dataclass(kw_only=True)
class LowWeights:
    """Weights in other precisions, made once whatever number of stages read them."""

    bundled: bool = False
    """Whether shards hold their weights themselves, and call torch's own operators alone."""
    made: dict[tuple[object, ...], dict[str, torch.Tensor]] = field(default_factory=dict)

    def of(self, weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision) -> dict[str, torch.Tensor]:
        """
        Args:
            weight: (out, in).
        """
        pointer = None if bias is None else bias.data_ptr()
        key = (weight.data_ptr(), tuple(weight.shape), weight.stride(), pointer, precision)
        if key not in self.made:
            with torch.no_grad():
                self.made[key] = _made(weight.detach(), precision)
                if bias is not None:
                    self.made[key]["bias"] = bias.detach().clone()
        return self.made[key]


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """What one stage is rewritten for."""

    precision: Precision
    weights: LowWeights
    keep: tuple[str, ...] = ()

    def applied(self, module: fx.GraphModule, store: WeightStore | None = None) -> fx.GraphModule:
        """The module in this precision, which is changed in place; its weights are stored product by product."""
        lowered, groups = lower(module, self.precision, self.weights, self.keep)
        if store is not None:
            for tensors in groups:
                store.together(tensors)
        return lowered


def _made(weight: torch.Tensor, precision: Precision) -> dict[str, torch.Tensor]:
    if precision in _HALF:
        return {"weight": weight.to(_HALF[precision]).contiguous()}
    largest = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * LEVELS)
    scale = largest / LEVELS
    codes = (weight / scale[:, None]).round().clamp_(-LEVELS, LEVELS).to(torch.int8)
    return {"codes": codes.contiguous(), "scale": scale}


def lower(
    module: fx.GraphModule, precision: Precision, weights: LowWeights, keep: Collection[str] = ()
) -> tuple[fx.GraphModule, list[dict[str, torch.Tensor]]]:
    """The module with its products in this precision, and the tensors that each of them reads; itself for fp32.

    Args:
        module: changed in place.
        keep: modules of the model whose products stay as they are.
    """
    if precision is Precision.FP32:
        return module, []
    register_operators()
    groups: list[dict[str, torch.Tensor]] = []
    registered: dict[int, dict[str, str]] = {}  # tracing refuses a tensor that has two names
    for number, node in enumerate(list(module.graph.nodes)):
        product = product_of(node, module)
        if product is None or is_kept(node, keep):
            continue
        weight, bias = attribute(module, str(product.weight.target)), None
        if product.bias is not None:
            bias = attribute(module, str(product.bias.target))
        tensors = weights.of(weight.t() if product.transposed else weight, bias, precision)
        if id(tensors) not in registered:
            groups.append(tensors)
            registered[id(tensors)] = {key: f"low_{number}_{key}" for key in tensors}
            for key, value in tensors.items():
                module.register_buffer(registered[id(tensors)][key], value, persistent=False)
        names = registered[id(tensors)]
        with module.graph.inserting_before(node):
            low = {key: module.graph.get_attr(name) for key, name in names.items()}
            made = _rewritten(module.graph, product, low, precision, weights.bundled)
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    return fx.GraphModule(module, module.graph, class_name="Stage").eval(), groups


def _rewritten(
    graph: fx.Graph, product: Product, low: Mapping[str, fx.Node], precision: Precision, bundled: bool
) -> fx.Node:
    aten, bias = torch.ops.aten, low.get("bias")
    if precision is Precision.INT8:
        call: Any = linear_int8 if bundled else torch.ops.edgecompile.linear_int8.default
        return graph.call_function(call, (product.activations, low["codes"], low["scale"], bias))
    half = graph.call_function(aten.to.dtype, (product.activations, _HALF[precision]))
    result = graph.call_function(aten.linear.default, (half, low["weight"]))
    wide = graph.call_function(aten.to.dtype, (result, torch.float32))
    return wide if bias is None else graph.call_function(aten.add.Tensor, (wide, bias))


def left_alone(module: fx.GraphModule, keep: Collection[str] = ()) -> dict[tuple[str, str], int]:
    """What does arithmetic in bulk and is not rewritten, in words (one, and several), and how often it is there."""
    found: Counter[tuple[str, str]] = Counter()
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if product_of(node, module) is not None:
            found["product of a kept module", "products of kept modules"] += is_kept(node, keep)
        elif "conv" in op_name(node):
            found["convolution", "convolutions"] += 1
        elif op_name(node) in _OTHER_PRODUCTS or "attention" in op_name(node):
            found["other product", "other products"] += 1
    return {what: count for what, count in found.items() if count}
