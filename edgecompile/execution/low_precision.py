"""Products with weights of eight bits: an operator that every machine runs, and the same by oneDNN's integer products.

Activations are scaled by row, when they are there, and weights by output channel, when the plan is made: so the result
of an item depends on no other item of its message. Both are whole numbers from -127 to 127, whose products are summed
up without rounding, by floats too as long as the sums stay below 2**24, so that both ways agree but for the last place.
"""

from __future__ import annotations

import functools
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from edgecompile.contract.closed_sets import Precision
from edgecompile.execution import torchscript

if TYPE_CHECKING:
    from torch import fx

__all__ = [
    "LEVELS",
    "LINEAR_INT8",
    "fast_here",
    "integer_exported",
    "integer_traced",
    "linear_int8",
    "register_operators",
]

LEVELS = 127
_MOST_SUMMED = (2**31 - 1) // (255 * LEVELS)
"""Wider rows could pass what the sums of the integer kernel hold, whose activations run from 0 to 255."""
_LEAST = 1e-30
"""Where a row is all zeros."""
LINEAR_INT8 = "edgecompile::linear_int8"
_REGISTERED: list[Any] = []
"""What is registered goes with the last reference to its library."""
_SCHEMA = "linear_int8(Tensor x, Tensor codes, Tensor scale, Tensor? bias) -> Tensor"


def linear_int8(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The product of activations and weights of eight bits, in floats.

    Args:
        x: (..., in), float32.
        codes: (out, in), int8, from -127 to 127.
        scale: (out,), float32: what a code of each output channel is worth.
        bias: (out,), float32.
    """
    rows = x.abs().amax(-1, keepdim=True).clamp_min(_LEAST)
    whole = (x * (LEVELS / rows)).round()
    product = functional.linear(whole, codes.to(x.dtype)) * (rows * (1 / LEVELS)) * scale
    return product if bias is None else product + bias


@functools.cache
def register_operators() -> None:
    """Makes torch know the operator, which shards of this precision call. Costs nothing the second time."""
    library: Any = torch.library.Library("edgecompile", "DEF")  # type: ignore[no-untyped-call]
    library.define(_SCHEMA)
    library.impl("linear_int8", linear_int8, "CompositeExplicitAutograd")
    _REGISTERED.append(library)


def fast_here(precision: Precision) -> bool:
    """Whether this machine's CPU has instructions for products of this precision, and torch the kernels."""
    if precision is Precision.FP32:
        return True
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    flags = _cpu_flags()
    if precision is Precision.INT8:
        return bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8"}) and hasattr(torch.ops.onednn, "qlinear_pointwise")
    if precision is Precision.BF16:
        return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return bool(flags & {"avx512_fp16", "amx_fp16"})


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """As Linux names them; none elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    lines = [line.partition(":")[2] for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].split()) if lines else frozenset()


def _by_integers(
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """linear_int8 with weights as oneDNN packs them; it takes activations without a sign alone at full speed."""
    rows = torch.clamp_min(torch.amax(torch.abs(x), [-1], True), 1e-30)
    codes = torch.mul(x, 127.0 / rows).round_().add_(128.0).to(torch.uint8)
    product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, 1.0 / 127.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    ).mul_(rows)
    if bias is not None:
        product = product.add_(bias)
    return product


def _packed(codes: torch.Tensor, num_rows: int) -> torch.Tensor:
    result: torch.Tensor = torch.ops.onednn.qlinear_prepack(codes.contiguous(), [max(1, num_rows), codes.shape[1]])
    return result


# --- TorchScript -----------------------------------------------------------------------------------------------------


@functools.cache
def _scripted() -> Any:
    return torchscript.script(_by_integers).graph


def integer_traced(graph: Any, num_rows: int = 256, *, consume: bool = False) -> list[torch.Tensor]:
    """Rewrites the operator, where its weights are constants of the graph, for oneDNN's integer products.

    Args:
        graph: changed in place; it takes the tensors that are returned behind its inputs.
        consume: lets go of the codes themselves.
    """
    packed: list[torch.Tensor] = []
    for node in list(graph.findAllNodes(LINEAR_INT8, recurse=True)):
        x, codes, scale, bias = node.inputs()
        if any(value.node().kind() != "prim::Constant" for value in (codes, scale)):
            continue
        own = codes.node().t("value")
        if own.shape[1] > _MOST_SUMMED:
            continue
        values = (_packed(own, num_rows), torch.zeros(own.shape[0], dtype=torch.int64))
        places = [graph.addInput() for _ in values]
        for place, value in zip(places, values, strict=True):
            place.setType(torch._C.TensorType.get())
            packed.append(value)
        alone = len(codes.uses()) == 1
        given = dict(zip((item.debugName() for item in _scripted().inputs()), (x, places[0], scale, places[1], bias),
                         strict=True))  # fmt: skip
        node.output().replaceAllUsesWith(_inlined(graph, node, _scripted(), given))
        node.destroy()
        if consume and alone:
            own.set_()
    return packed


def _inlined(graph: Any, before: Any, helper: Any, given: dict[str, Any]) -> Any:
    """Copies a function's nodes, blocks included, to before a node; returns the value of its result."""
    graph.setInsertPoint(before)
    for node in helper.nodes():
        copy = graph.createClone(node, lambda value: given[value.debugName()])
        graph.insertNode(copy)
        given.update(zip((value.debugName() for value in node.outputs()), copy.outputs(), strict=True))
    return given[next(iter(helper.outputs())).debugName()]


# --- torch.export ----------------------------------------------------------------------------------------------------


def integer_exported(module: fx.GraphModule, num_rows: int = 256) -> fx.GraphModule:
    """The same for an exported program's module, which is changed in place and lets go of its codes."""
    found = [node for node in module.graph.nodes if str(node.target).startswith("edgecompile.linear_int8")]
    read: list[torch.Tensor] = []
    for index, node in enumerate(found):
        x, codes, scale, *rest = node.args
        if codes.op != "get_attr":
            continue
        own = attrgetter(str(codes.target))(module)
        if own.shape[1] > _MOST_SUMMED:
            continue
        names = [f"packed_{index}", f"zeros_{index}"]
        values = [_packed(own.detach(), num_rows), torch.zeros(own.shape[0], dtype=torch.int64)]
        for name, value in zip(names, values, strict=True):
            module.register_buffer(name, value, persistent=False)
        with module.graph.inserting_before(node):
            places = [module.graph.get_attr(name) for name in names]
            arguments = (x, places[0], scale, places[1], rest[0] if rest else node.kwargs.get("bias"))
            made = module.graph.call_function(_by_integers, arguments)
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
        if not codes.users:
            read.append(own)
    for own in read:  # once all are packed: equal ones are one tensor
        own.set_()  # type: ignore[call-overload]
    if found:
        module.graph.eliminate_dead_code()
        module.recompile()
    return module
