"""Rewrites a stage's products and convolutions for another precision: the pass that `precision` switches.

Those with weights alone are rewritten, convolutions together with the batch norm that follows them. What must not be
rounded (softmax, norms, embeddings, sums) stays in float32, and so do depthwise convolutions and those of other than
two dimensions, other products (of two activations, as in attention, and of weights that are not whole float32 tensors
of the model's own), and the modules of `precision.keep`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from edgecompile.artifacts.batch_norms import Norm, norm_after
from edgecompile.artifacts.weight_codes import bits_of, weight_codes
from edgecompile.artifacts.weight_store import WeightStore
from edgecompile.contract.closed_sets import WEIGHT_ONLY, Precision
from edgecompile.execution.low_precision import LEVELS, conv_int8, linear_int8, register_operators
from edgecompile.execution.weight_only import OPERATORS, register_weight_operators
from edgecompile.frontend.capture.graphs import attribute, op_name
from edgecompile.frontend.chain.products import (
    Convolution,
    Embedding,
    Product,
    can_lower,
    convolution_of,
    embedding_of,
    is_kept,
    product_of,
)

__all__ = ["RANGE", "LowWeights", "Lowering", "left_alone", "lower"]

RANGE = "range"
"""The key of a convolution node's meta that holds the least and the largest of its activations, where calibrated."""
_HALF: Mapping[Precision, torch.dtype] = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
_OTHER_PRODUCTS = frozenset({"bmm", "matmul", "mm", "baddbmm", "scaled_dot_product_attention", "einsum", "linear"})
_CODES = 255
"""Steps of calibrated activations."""


@dataclass(kw_only=True)
class LowWeights:
    """Weights in other precisions, made once whatever number of stages read them."""

    bundled: bool = False
    """Whether shards hold their weights themselves, and call torch's own operators alone."""
    made: dict[tuple[object, ...], dict[str, torch.Tensor]] = field(default_factory=dict)

    def of(
        self, weight: torch.Tensor, bias: torch.Tensor | None, precision: Precision, norm: Norm | None = None
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            weight: (out, ...).
            norm: the batch norm that follows, which the weights take in.
        """
        beside = (bias, *(norm.tensors if norm is not None else ()))
        pointers = tuple(None if value is None else value.data_ptr() for value in beside)
        key = (weight.data_ptr(), tuple(weight.shape), weight.stride(), pointers, precision,
               None if norm is None else norm.eps)  # fmt: skip
        if key not in self.made:
            with torch.no_grad():
                weight, bias = weight.detach(), None if bias is None else bias.detach()
                if norm is not None:
                    weight, bias = norm.folded(weight, bias)
                self.made[key] = _made(weight, precision)
                if bias is not None:
                    self.made[key]["bias"] = bias.clone()
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
    if precision in WEIGHT_ONLY:
        return weight_codes(weight, bits_of(weight, precision))
    if precision in _HALF:
        return {"weight": weight.to(_HALF[precision]).contiguous()}
    largest = weight.flatten(1).abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * LEVELS)
    scale = largest / LEVELS
    codes = (weight / scale.view(-1, *[1] * (weight.dim() - 1))).round().clamp_(-LEVELS, LEVELS).to(torch.int8)
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
    register_weight_operators()
    groups: list[dict[str, torch.Tensor]] = []
    registered: dict[int, dict[str, str]] = {}  # tracing refuses a tensor that has two names
    for number, node in enumerate(list(module.graph.nodes)):
        found = _found(node, module, precision)
        if found is None or is_kept(node, keep):
            continue
        norm = norm_after(node, module) if isinstance(found, Convolution) else None
        weight, bias = attribute(module, str(found.weight.target)), None
        if not isinstance(found, Embedding) and found.bias is not None:
            bias = attribute(module, str(found.bias.target))
        turned = isinstance(found, Product) and found.transposed
        tensors = weights.of(weight.t() if turned else weight, bias, precision, norm)
        if id(tensors) not in registered:
            groups.append(tensors)
            registered[id(tensors)] = {key: f"low_{number}_{key}" for key in tensors}
            for key, value in tensors.items():
                module.register_buffer(registered[id(tensors)][key], value, persistent=False)
        names = registered[id(tensors)]
        last = node if norm is None else norm.result
        with module.graph.inserting_before(node):
            low = {key: module.graph.get_attr(name) for key, name in names.items()}
            if precision in WEIGHT_ONLY:
                assert not isinstance(found, Convolution)
                made = _with_codes(module.graph, found, low, bits_of(weight.t() if turned else weight, precision),
                                   weights.bundled)  # fmt: skip
            else:
                assert not isinstance(found, Embedding)
                made = _rewritten(module.graph, found, low, precision, weights.bundled, node.meta.get(RANGE))
        made.meta.update(last.meta)
        last.replace_all_uses_with(made)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    return fx.GraphModule(module, module.graph, class_name="Stage").eval(), groups


def _found(
    node: fx.Node, root: fx.GraphModule, precision: Precision
) -> Product | Convolution | Embedding | None:  # fmt: skip
    if precision in WEIGHT_ONLY:
        return product_of(node, root) or embedding_of(node, root)
    return product_of(node, root) or convolution_of(node, root)


def _with_codes(
    graph: fx.Graph, found: Product | Embedding, low: Mapping[str, fx.Node], bits: int, bundled: bool
) -> fx.Node:  # fmt: skip
    kind = "embedding" if isinstance(found, Embedding) else "linear"
    name = f"{kind}_weights{bits}"
    call: Callable[..., Any] = OPERATORS[name] if bundled else getattr(torch.ops.edgecompile, name).default
    if isinstance(found, Embedding):
        return graph.call_function(call, (found.places, low["codes"], low["scale"]))
    return graph.call_function(call, (found.activations, low["codes"], low["scale"], low.get("bias")))


def _rewritten(
    graph: fx.Graph,
    found: Product | Convolution,
    low: Mapping[str, fx.Node],
    precision: Precision,
    bundled: bool,
    values: tuple[float, float] | None,
) -> fx.Node:
    """`values`: the least and the largest of the activations, where they were calibrated."""
    aten, bias = torch.ops.aten, low.get("bias")
    x, sizes = found.activations, list[Any]()
    if isinstance(found, Convolution):
        sizes = [list(found.stride), list(found.padding), list(found.dilation), found.groups]
    if precision is Precision.INT8:
        own: Any = torch.ops.edgecompile
        if isinstance(found, Product):
            call: Callable[..., Any] = linear_int8 if bundled else own.linear_int8.default
            return graph.call_function(call, (x, low["codes"], low["scale"], bias))
        call = conv_int8 if bundled else own.conv_int8.default
        return graph.call_function(call, (x, low["codes"], low["scale"], bias, *sizes, *_step(values)))
    half = graph.call_function(aten.to.dtype, (x, _HALF[precision]))
    if isinstance(found, Product):
        result = graph.call_function(aten.linear.default, (half, low["weight"]))
    else:
        result = graph.call_function(aten.conv2d.default, (half, low["weight"], None, *sizes))
    wide = graph.call_function(aten.to.dtype, (result, torch.float32))
    if bias is None:
        return wide
    if isinstance(found, Convolution):
        bias = graph.call_function(aten.reshape.default, (bias, [-1, 1, 1]))
    return graph.call_function(aten.add.Tensor, (wide, bias))


def _step(values: tuple[float, float] | None) -> tuple[float | None, int]:
    """What a code of activations in this range is worth, and the code of zero, from 0 to 255."""
    if values is None:
        return None, 0
    low, high = min(values[0], 0.0), max(values[1], 0.0)
    step = max(high - low, 1e-30) / _CODES
    return step, round(-low / step)


def left_alone(
    module: fx.GraphModule, keep: Collection[str] = (), precision: Precision | None = None
) -> dict[tuple[str, str], int]:
    """What does arithmetic in bulk and is not rewritten, in words (one, and several), and how often it is there."""
    found: Counter[tuple[str, str]] = Counter()
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if can_lower(node, module, precision):
            found["product of a kept module", "products of kept modules"] += is_kept(node, keep)
        elif "conv" in op_name(node):
            found["convolution", "convolutions"] += 1
        elif op_name(node) in _OTHER_PRODUCTS or "attention" in op_name(node):
            found["other product", "other products"] += 1
    return {what: count for what, count in found.items() if count}
