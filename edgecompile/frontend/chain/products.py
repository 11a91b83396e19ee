"""Finds the products of activations and constant weights: what a stage may compute in fewer bits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError, choices
from edgecompile.frontend.capture.graphs import attribute, module_path
from edgecompile.frontend.chain.units import Chain, Unit

__all__ = ["WEIGHT_SHARES", "Product", "check_kept", "is_kept", "lowered_units", "product_of"]


WEIGHT_SHARES: Mapping[Precision, float] = {
    Precision.FP32: 1.0, Precision.BF16: 0.5, Precision.FP16: 0.5, Precision.INT8: 0.25,
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
    paths = {module_path(node) for unit in chain.units for node in unit.nodes if product_of(node, root) is not None}
    for name in keep:
        if not any(path == name or path.startswith(f"{name}.") for path in paths):
            raise UserError(
                f"no module {name!r} multiplies with weights", key="precision.keep",
                fix=f"the modules that do are {choices(paths, name)}",
            )  # fmt: skip


def lowered_units(chain: Chain, keep: Collection[str]) -> frozenset[int]:
    """The units whose main work is such a product, but for those of the modules that are kept."""
    root = chain.captured.graph_module
    return frozenset(unit.index for unit in chain.units if _has_product(unit, root, keep))


def _has_product(unit: Unit, root: fx.GraphModule, keep: Collection[str]) -> bool:
    return any(product_of(node, root) is not None and not is_kept(node, keep) for node in unit.nodes)
