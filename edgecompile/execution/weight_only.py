"""Products whose weights alone are of 8 or 4 bits: operators that every machine runs, and the same by torch's kernels.

Weights are codes: of 8 bits with a scale for each output channel, or of 4 bits, two a byte, with a scale and a zero for
each group of 32 along the input. Activations are rounded to bf16, sums are of float32, and results are rounded to bf16
again, as torch's kernels do it: so both ways agree but for the last place, and no row depends on another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from edgecompile.execution import torchscript
from edgecompile.execution.fusion.fused_products import FusedProducts, one_product
from edgecompile.execution.fusion.graph_nodes import share_out
from edgecompile.execution.fusion.product_kinds import FOUR_BITS, Codes

if TYPE_CHECKING:
    from torch import fx

__all__ = [
    "GROUP",
    "OPERATORS",
    "kernels_here",
    "register_weight_operators",
    "weights_exported",
    "weights_of",
    "weights_traced",
]

GROUP = 32
"""Inputs that share a scale and a zero, in 4 bits."""
_MIDDLE = 8
"""The code of 4 bits that stands for the zero of its group."""
_BLOCK = 1 << 20
"""Weights that are made of codes at a time."""
_ROWS = 16
"""Of the kernel for 4 bits: it takes a multiple of so many output channels."""
_ALIGNED = 16
"""Bytes. The kernel for 8 bits loads so many codes of a channel at a time. Where a channel does not begin at a multiple
of them, it ends the process, or reads what lies behind the channel."""
_SCHEMAS = (
    "linear_weights8(Tensor x, Tensor codes, Tensor scale, Tensor? bias) -> Tensor",
    "linear_weights4(Tensor x, Tensor codes, Tensor scale, Tensor? bias) -> Tensor",
    "embedding_weights8(Tensor places, Tensor codes, Tensor scale) -> Tensor",
    "embedding_weights4(Tensor places, Tensor codes, Tensor scale) -> Tensor",
)
_REGISTERED: list[Any] = []


def weights_of(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What codes stand for, (out, in), float32.

    Args:
        codes: (out, in), int8, from -127 to 127; or (out, in / 2), uint8, two of 4 bits, the first in the lower half.
        scale: (out,), bf16, of 8 bits; (in / 32, out, 2), bf16, of 4 bits: the scale and the zero of each group.
    """
    if scale.dim() == 1:
        return codes.to(torch.float32) * scale.to(torch.float32).unsqueeze(-1)
    groups, rows, _ = scale.shape
    worth = scale.to(torch.float32).permute(1, 0, 2).unsqueeze(2)
    whole = torch.stack([codes & 15, codes >> 4], -1).reshape(rows, groups, GROUP).to(torch.float32) - _MIDDLE
    return (whole * worth[..., 0] + worth[..., 1]).reshape(rows, groups * GROUP)


def _linear(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """
    Args:
        x: (..., in), float32.
        codes, scale: as for weights_of.
        bias: (out,), float32.
    """
    rounded = x.to(torch.bfloat16).to(torch.float32)
    step, axis = max(1, _BLOCK // x.shape[-1]), 0 if scale.dim() == 1 else 1
    parts = zip(torch.split(codes, step), torch.split(scale, step, axis), strict=True)
    products = [functional.linear(rounded, weights_of(*part)).to(torch.bfloat16).to(torch.float32) for part in parts]
    product = products[0] if len(products) == 1 else torch.cat(products, -1)
    return product if bias is None else product + bias


def _embedding(places: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rows of the weights, (..., in), float32, at places (...), int64 or int32."""
    flat = places.reshape(-1)
    chosen = weights_of(codes.index_select(0, flat), scale.index_select(0 if scale.dim() == 1 else 1, flat))
    return chosen.reshape(*places.shape, chosen.shape[-1])


OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "linear_weights8": _linear, "linear_weights4": _linear,
    "embedding_weights8": _embedding, "embedding_weights4": _embedding,
}  # fmt: skip
"""By name, as functions that torch knows without registering them."""


@functools.cache
def register_weight_operators() -> None:
    """Makes torch know the operators, which shards of these precisions call. Costs nothing the second time."""
    library: Any = torch.library.Library("edgecompile", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema, (name, function) in zip(_SCHEMAS, OPERATORS.items(), strict=True):
        library.define(schema)
        library.impl(name, function, "CompositeExplicitAutograd")
    _REGISTERED.append(library)


def kernels_here() -> bool:
    """Whether torch's kernels for such weights are fast on this machine's CPU."""
    known = hasattr(torch.ops.aten, "_weight_int8pack_mm") and hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
    return known and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def _by_codes8(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows = x.reshape([-1, x.size(-1)]).to(torch.bfloat16)
    product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(rows, codes, scale).to(torch.float32)
    if bias is not None:
        product = product.add_(bias)
    return product.reshape(list(x.shape[:-1]) + [codes.size(0)])


def _by_padded_codes8(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Whose channels have been made longer with zeros."""
    return _by_codes8(torch.constant_pad_nd(x, [0, codes.size(1) - x.size(-1)]), codes, scale, bias)


def _by_codes4(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows = x.reshape([-1, x.size(-1)]).to(torch.bfloat16)
    product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, codes, 32, scale).to(torch.float32)
    if bias is not None:
        product = product.add_(bias)
    return product.reshape(list(x.shape[:-1]) + [codes.size(0)])


def _has_kernel(codes: torch.Tensor) -> bool:
    return codes.dtype is torch.int8 or codes.shape[0] % _ROWS == 0


def _kernel(codes: torch.Tensor) -> tuple[Callable[..., torch.Tensor], torch.Tensor]:
    """What computes the product with these codes, and the codes as it takes them."""
    if codes.dtype is torch.int8:
        missing = -codes.shape[1] % _ALIGNED
        if missing:
            return _by_padded_codes8, functional.pad(codes, (0, missing))
        return _by_codes8, codes if codes.data_ptr() % _ALIGNED == 0 else codes.clone()
    step = max(1, _BLOCK // codes.shape[1] // 64) * 64  # blocks of 64 channels are packed each by itself
    parts = [
        torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            torch.stack([part & 15, part >> 4], -1).flatten(1).to(torch.int32), 1
        )
        for part in torch.split(codes, step)
    ]  # fmt: skip
    return _by_codes4, torch.cat(parts)


# --- TorchScript -----------------------------------------------------------------------------------------------------


def weights_traced(graph: Any, *, consume: bool = False) -> list[torch.Tensor]:
    """Rewrites the products, where their weights are constants of the graph, for torch's kernels.

    Args:
        graph: changed in place; it takes the tensors that are returned behind its inputs.
        consume: lets go of the codes themselves, where nothing else reads them.
    """
    given: list[torch.Tensor] = []
    for nodes in _alike(graph):
        read = [(node.inputsAt(1), node.inputsAt(2)) for node in nodes]
        own = [(codes.node().t("value"), scale.node().t("value")) for codes, scale in read]
        axis = 0 if own[0][1].dim() == 1 else 1
        codes = own[0][0] if len(own) == 1 else torch.cat([item for item, _ in own])
        scale = own[0][1] if len(own) == 1 else torch.cat([item for _, item in own], axis)
        helper, packed = _kernel(codes)
        places = [graph.addInput() for _ in range(2)]
        for place in places:
            place.setType(torch._C.TensorType.get())
        given += [packed, scale]
        graph.setInsertPoint(nodes[0])
        (result,) = graph.insertGraph(
            torchscript.graph_of(helper), [nodes[0].inputsAt(0), *places, nodes[0].inputsAt(3)]
        )
        share_out(graph, nodes, result, [len(item) for item, _ in own])
        kept = packed.data_ptr()
        for (value, _), (item, _) in zip(read, own, strict=True):
            if consume and not value.uses() and item.data_ptr() != kept:
                item.set_()
    return given


def _alike(graph: Any) -> list[list[Any]]:
    """The products, in order: those of the same activations together, as of queries, keys and values."""
    found: dict[object, list[Any]] = {}
    for bits in (8, 4):
        for node in graph.findAllNodes(f"edgecompile::linear_weights{bits}", recurse=False):
            x, codes, scale, bias = node.inputs()
            if any(value.node().kind() != "prim::Constant" for value in (codes, scale)):
                continue
            if not _has_kernel(codes.node().t("value")):
                continue
            plain = bias.node().kind() == "prim::Constant" and bias.toIValue() is None
            found.setdefault((bits, x.debugName()) if plain else node, []).append(node)
    return list(found.values())


class _NativeModule(nn.Module):
    """For graphs of torch.fx, which hold tensors and modules alone."""

    def __init__(self, product: FusedProducts) -> None:
        super().__init__()
        self._product = product

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        (product,) = self._product([x])
        return product if bias is None else product.add_(bias)


# --- torch.export ----------------------------------------------------------------------------------------------------


def weights_exported(module: fx.GraphModule) -> fx.GraphModule:
    """The same for an exported program's module, which is changed in place; by native code where that computes here."""
    found = [node for node in module.graph.nodes if str(node.target).startswith("edgecompile.linear_weights")]
    read: list[torch.Tensor] = []
    for index, node in enumerate(found):
        x, codes, scale, *rest = node.args
        if codes.op != "get_attr" or scale.op != "get_attr":
            continue
        own, worth = (attrgetter(str(item.target))(module).detach() for item in (codes, scale))
        bias, name = rest[0] if rest else node.kwargs.get("bias"), f"packed_codes_{index}"
        native = own.dtype is torch.uint8 and FOUR_BITS.runs()
        if native:
            module.add_submodule(name, _NativeModule(one_product(FOUR_BITS, Codes(own, worth))))
        elif kernels_here() and _has_kernel(own):
            helper, made = _kernel(own)
            module.register_buffer(name, made, persistent=False)
        else:
            continue
        with module.graph.inserting_before(node):
            if native:
                call = module.graph.call_module(name, (x, bias))
            else:
                call = module.graph.call_function(helper, (x, module.graph.get_attr(name), scale, bias))
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
        read += [attrgetter(str(codes.target))(module)] if own.dtype is torch.uint8 else []
    if found:
        module.graph.eliminate_dead_code()
        module.recompile()
    names = {str(node.target) for node in module.graph.nodes if node.op == "get_attr" and node.users}
    values = [attrgetter(name)(module) for name in names]
    still = {value.data_ptr() for value in values if value.dtype is torch.uint8}
    for own in read:  # once all are packed: equal ones are one tensor
        if own.data_ptr() not in still:
            own.set_()  # type: ignore[call-overload]
    return module
