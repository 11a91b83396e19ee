"""Finds products and convolutions of activations and constant weights: what a stage may compute in fewer bits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecompile.contract.closed_sets import WEIGHT_ONLY, Precision
from edgecompile.contract.errors import UserError, choices
from edgecompile.frontend.capture.graphs import attribute, facts_of, module_path
from edgecompile.frontend.chain.units import Chain, Unit

__all__ = [
    "WEIGHT_SHARES",
    "Convolution",
    "Embedding",
    "Product",
    "can_lower",
    "check_kept",
    "convolution_of",
    "embedding_of",
    "is_kept",
    "lowered_by",
    "lowered_units",
    "product_of",
]


WEIGHT_SHARES: Mapping[Precision, float] = {
    Precision.FP32: 1.0, Precision.BF16: 0.5, Precision.FP16: 0.5, Precision.INT8: 0.25,
    Precision.INT8_WEIGHTS: 0.25, Precision.INT4_WEIGHTS: 5 / 32,
}  # fmt: skip
"""What weights take in each precision, of what they take in float32."""


@dataclass(frozen=True)
class Product:
    """A node that multiplies activations (..., in) with weights, and may add a bias."""

    activations: fx.Node
    weight: fx.Node
    transposed: bool
    """Whether the weights are (in, out), and not (out, in)."""
    bias: fx.Node | None


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A node that convolves activations (items, in, height, width) with weights, and may add a bias."""

    activations: fx.Node
    weight: fx.Node
    """(out, in over groups, height, width)"""
    bias: fx.Node | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A node that takes rows of weights, at places that are computed."""

    places: fx.Node
    weight: fx.Node


def can_lower(node: fx.Node, root: fx.GraphModule, precision: Precision | None = None) -> bool:
    """`precision`: which of them are rewritten depends on it; None: whether any does."""
    if product_of(node, root) is not None:
        return True
    weights_alone = precision in WEIGHT_ONLY
    if (precision is None or not weights_alone) and convolution_of(node, root) is not None:
        return True
    return (precision is None or weights_alone) and embedding_of(node, root) is not None


def embedding_of(node: fx.Node, root: fx.GraphModule) -> Embedding | None:
    """None for any other node, and where weights are not float32 tensors of the model's own."""
    if node.op != "call_function" or node.target is not torch.ops.aten.embedding.default or len(node.args) < 2:
        return None
    weight, places = node.args[:2]
    if not isinstance(weight, fx.Node) or not isinstance(places, fx.Node) or not _is_constant(weight, root, 2):
        return None
    return Embedding(places=places, weight=weight)


_CONV2D = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)
_LEAST_CHANNELS = 16
"""Of a group of several, that each output sums up: in depthwise convolutions fewer bits save nothing."""


def convolution_of(node: fx.Node, root: fx.GraphModule) -> Convolution | None:
    """None for any other node, also for transposed ones, other than two dimensions, and depthwise ones.

    Args:
        root: that has the attributes which the graph reads.
    """
    aten = torch.ops.aten
    if node.op != "call_function" or node.target not in (*_CONV2D, aten.convolution.default):
        return None
    unbatched = any(len(facts.shape) != 4 for facts in facts_of(node))
    named = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation"), node.args, strict=False))
    rest: dict[str, Any] = {**named, **node.kwargs}
    places = (8, 6) if node.target is aten.convolution.default else (6, None)
    groups, turned = (1 if at is None or len(node.args) <= at else node.args[at] for at in places)
    groups = node.kwargs.get("groups", groups)
    if unbatched or (node.target is aten.convolution.default and (turned is True or node.kwargs.get("transposed"))):
        return None
    weight, bias, x = rest["weight"], rest.get("bias"), rest["input"]
    if not _is_constant(weight, root, 4) or not (bias is None or _is_constant(bias, root, 1)):
        return None
    if isinstance(rest.get("padding"), str):
        rest["padding"] = _padding(rest, attribute(root, str(weight.target)).shape[2:])
    sizes = [_pair(rest.get(name, default)) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
    if not isinstance(groups, int) or any(size is None for size in sizes) or not isinstance(x, fx.Node):
        return None
    if groups > 1 and attribute(root, str(weight.target)).shape[1] < _LEAST_CHANNELS:
        return None
    stride, padding, dilation = (size or () for size in sizes)
    return Convolution(activations=x, weight=weight, bias=bias, stride=stride, padding=padding, dilation=dilation,
                       groups=groups)  # fmt: skip


def _padding(named: Mapping[str, Any], kernel: Sequence[int]) -> tuple[int, ...] | None:
    """`valid` and `same` as numbers; None where `same` has more on one side than on the other."""
    if named["padding"] == "valid":
        return (0, 0)
    dilation = _pair(named.get("dilation", 1))
    if dilation is None:
        return None
    totals = [step * (extent - 1) for step, extent in zip(dilation, kernel, strict=True)]
    return None if any(total % 2 for total in totals) else tuple(total // 2 for total in totals)


def _pair(value: Any) -> tuple[int, ...] | None:
    """Of height and width; None where it is something else than numbers."""
    pair = (value,) * 2 if isinstance(value, int) else tuple(value) if isinstance(value, (list, tuple)) else ()
    pair = pair * 2 if len(pair) == 1 else pair
    return pair if len(pair) == 2 and all(isinstance(item, int) for item in pair) else None


def product_of(node: fx.Node, root: fx.GraphModule) -> Product | None:
    """None for any other node, and where weights or bias are not float32 tensors of the model's own.

    Args:
        root: that has the attributes which the graph reads.
    """
    if node.op != "call_function":
        return None
    given: list[Any] = list(node.args)
    if node.target is torch.ops.aten.linear.default:
        last: Any = node.kwargs.get("bias")
        found = Product(given[0], given[1], False, given[2] if len(given) > 2 else last)
    elif node.target is torch.ops.aten.addmm.default and not node.kwargs:
        found = Product(given[1], given[2], True, given[0])
    elif node.target in (torch.ops.aten.mm.default, torch.ops.aten.matmul.default):
        found = Product(given[0], given[1], True, None)
    else:
        return None
    if not _is_constant(found.weight, root, 2) or not (found.bias is None or _is_constant(found.bias, root, 1)):
        return None
    return found if isinstance(found.activations, fx.Node) and found.activations is not found.weight else None


def _is_constant(node: Any, root: fx.GraphModule, rank: int) -> bool:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return False
    value = attribute(root, str(node.target))
    if not isinstance(value, torch.Tensor) or value.numel() == 0:
        return False
    return value.dtype is torch.float32 and value.dim() == rank


def is_kept(node: fx.Node, keep: Collection[str]) -> bool:
    """Whether the node belongs to one of these modules, or one within them."""
    path = module_path(node)
    return any(path == name or path.startswith(f"{name}.") for name in keep)


def check_kept(chain: Chain, keep: Collection[str]) -> None:
    """Raises UserError for a name that is none of a module with such a product."""
    root = chain.captured.graph_module
    paths = {module_path(node) for unit in chain.units for node in unit.nodes if can_lower(node, root)}
    for name in keep:
        if not any(path == name or path.startswith(f"{name}.") for path in paths):
            raise UserError(
                f"no module {name!r} multiplies with weights or convolves", key="precision.keep",
                fix=f"the modules that do are {choices(paths, name)}",
            )  # fmt: skip


def lowered_units(chain: Chain, keep: Collection[str], precision: Precision) -> frozenset[int]:
    """The units that this precision changes, but for those of the modules that are kept."""
    root = chain.captured.graph_module
    if precision is Precision.FP32:
        return frozenset()
    return frozenset(unit.index for unit in chain.units if _is_changed(unit, root, keep, precision))


def lowered_by(chain: Chain, keep: Collection[str], precisions: Iterable[Precision]) -> dict[Precision, frozenset[int]]:
    """The units that each of these precisions changes."""
    return {precision: lowered_units(chain, keep, precision) for precision in dict.fromkeys(precisions)}


def _is_changed(unit: Unit, root: fx.GraphModule, keep: Collection[str], precision: Precision) -> bool:
    return any(can_lower(node, root, precision) and not is_kept(node, keep) for node in unit.nodes)
