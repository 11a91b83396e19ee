"""Products and convolutions of eight bits: operators that every machine runs, and the same by oneDNN's integer kernels.

Activations are scaled by row (in convolutions by item), when they are there, or as they were calibrated, and weights by
output channel, when the plan is made: so the result of an item depends on no other item of its message. Both are whole
numbers of eight bits, whose products are summed up without rounding, by floats too as long as the sums stay below
2**24, so that both ways agree but for the last place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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
    "CONV_INT8",
    "LINEAR_INT8",
    "conv_int8",
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
LINEAR_INT8, CONV_INT8 = "edgecompile::linear_int8", "edgecompile::conv_int8"
_REGISTERED: list[Any] = []
"""What is registered goes with the last reference to its library."""
_SCHEMAS = (
    "linear_int8(Tensor x, Tensor codes, Tensor scale, Tensor? bias) -> Tensor",
    "conv_int8(Tensor x, Tensor codes, Tensor scale, Tensor? bias, int[] stride, int[] padding, int[] dilation, "
    "int groups, float? step, int zero) -> Tensor",
)


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


def conv_int8(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    step: float | None = None,
    zero: int = 0,
) -> torch.Tensor:
    """A convolution of activations and weights of eight bits, in floats.

    Args:
        x: (items, in, height, width), float32.
        codes: (out, in over groups, height, width), int8, from -127 to 127.
        scale: (out,), float32: what a code of each output channel is worth.
        bias: (out,), float32.
        step: what a code of the activations is worth; None: as much as the largest of an item over 127.
        zero: the code of zero, of 0 to 255, where there is a step. Values beyond the codes are cut off, and an item
            with one that is not finite gives NaN.
    """
    worth: Any
    if step is None:
        items = x.abs().amax([1, 2, 3], keepdim=True).clamp_min(_LEAST)
        whole, worth = (x * (LEVELS / items)).round(), items * (1 / LEVELS)
    else:
        whole, worth = (x * (1 / step)).round().clamp(-zero, 255 - zero), step
    product: torch.Tensor = functional.conv2d(whole, codes.to(x.dtype), None, stride, padding, dilation, groups)
    product = product * worth * scale.reshape(-1, 1, 1)
    if step is not None:
        product = product + x.sum([1, 2, 3], keepdim=True) * 0.0
    return product if bias is None else product + bias.reshape(-1, 1, 1)


@functools.cache
def register_operators() -> None:
    """Makes torch know the operators, which shards of this precision call. Costs nothing the second time."""
    library: Any = torch.library.Library("edgecompile", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema, function in zip(_SCHEMAS, (linear_int8, conv_int8), strict=True):
        library.define(schema)
        library.impl(function.__name__, function, "CompositeExplicitAutograd")
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
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor, bias: torch.Tensor | None,
    numbers: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """linear_int8 with weights as oneDNN packs them; it takes activations without a sign alone at full speed.

    Args:
        numbers: _NUMBERS; Python's own become tensors at each call, which takes a third of what a small product does.
    """
    rows = torch.maximum(torch.amax(torch.abs(x), [-1], True), numbers[2])
    codes = torch.mul(x, torch.div(numbers[0], rows)).round_().add_(numbers[1]).to(torch.uint8)
    product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, 1.0 / 127.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    ).mul_(rows)
    if bias is not None:
        product = product.add_(bias)
    return product


def _conv_by_integers(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    zeros: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """conv_int8 without a step, likewise."""
    items = torch.clamp_min(torch.amax(torch.abs(x), [1, 2, 3], True), 1e-30)
    codes = torch.mul(x, 127.0 / items).round_().add_(128.0).to(torch.uint8)
    product: torch.Tensor = torch.ops.onednn.qconv_pointwise(
        codes, 1.0 / 127.0, 128, packed, scale, zeros, None, stride, padding, dilation, groups, 1.0, 0, torch.float32,
        "none", [], None,
    ).mul_(items)  # fmt: skip
    if bias is not None:
        product = product.add_(torch.reshape(bias, [-1, 1, 1]))
    return product


def _conv_by_steps(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    zeros: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    step: float,
    zero: int,
) -> torch.Tensor:
    """conv_int8 with a step, likewise."""
    spoiled = torch.sum(x, [1, 2, 3], True).mul_(0.0)  # no code says that a value is not finite
    codes = torch.mul(x, 1.0 / step).round_().add_(float(zero)).clamp_(0.0, 255.0).to(torch.uint8)
    product: torch.Tensor = torch.ops.onednn.qconv_pointwise(
        codes, step, zero, packed, scale, zeros, bias, stride, padding, dilation, groups, 1.0, 0, torch.float32, "none",
        [], None,
    ).add_(spoiled)  # fmt: skip
    return product


def _packed(codes: torch.Tensor, num_rows: int) -> torch.Tensor:
    result: torch.Tensor = torch.ops.onednn.qlinear_prepack(codes.contiguous(), [max(1, num_rows), codes.shape[1]])
    return result


def _packed_conv(codes: torch.Tensor, scale: torch.Tensor, sizes: Sequence[Any], zero: int) -> torch.Tensor:
    stride, padding, dilation, groups = sizes
    result: torch.Tensor = torch.ops.onednn.qconv_prepack(
        codes.contiguous(), scale, 1.0, zero, stride, padding, dilation, groups, None
    )
    return result


def _numbers() -> torch.Tensor:
    """Of _by_integers: the largest code, the code of zero, and what the largest value of a row is at least."""
    return torch.tensor([float(LEVELS), 128.0, _LEAST])


# --- TorchScript -----------------------------------------------------------------------------------------------------


@functools.cache
def _scripted(function: Callable[..., torch.Tensor]) -> Any:
    return torchscript.script(function).graph


def integer_traced(graph: Any, num_rows: int = 256, *, consume: bool = False) -> list[torch.Tensor]:
    """Rewrites the operators, where their weights are constants of the graph, for oneDNN's integer products.

    Args:
        graph: changed in place; it takes the tensors that are returned behind its inputs.
        consume: lets go of the codes themselves.
    """
    packed: list[torch.Tensor] = []
    _join(graph)
    for node in [*graph.findAllNodes(LINEAR_INT8, recurse=True), *graph.findAllNodes(CONV_INT8, recurse=True)]:
        x, codes, scale, bias, *rest = node.inputs()
        if any(value.node().kind() != "prim::Constant" for value in (codes, scale)):
            continue
        own, given = codes.node().t("value"), [_number(value) for value in rest]
        if not _has_kernel(own, given):
            continue
        helper, values, kept = _kernel(own, scale.node().t("value"), given, num_rows)
        places = [graph.addInput() for _ in values]
        for place, value in zip(places, values, strict=True):
            place.setType(torch._C.TensorType.get())
            packed.append(value)
        alone = len(codes.uses()) == 1
        arguments = (x, places[0], scale, places[1], bias, *places[2:], *rest[:kept])
        scripted = _scripted(helper)
        names = dict(zip((item.debugName() for item in scripted.inputs()), arguments, strict=True))
        node.output().replaceAllUsesWith(_inlined(graph, node, scripted, names))
        node.destroy()
        if consume and alone:
            own.set_()
    return packed


def _join(graph: Any) -> None:
    """Products of the same activations become one, whose result is cut: queries, keys and values of attention, say.

    So activations are turned into codes once, and what a call costs beside its work is spent once.
    """
    alike: dict[str, list[Any]] = {}
    for node in graph.findAllNodes(LINEAR_INT8, recurse=False):
        x, codes, scale, bias = node.inputs()
        constant = all(value.node().kind() == "prim::Constant" for value in (codes, scale, bias))
        if constant and bias.toIValue() is None and _has_kernel(codes.node().t("value"), ()):
            alike.setdefault(x.debugName(), []).append(node)
    for nodes in alike.values():
        if len(nodes) < 2:
            continue
        weights = [tuple(value.node().t("value") for value in list(node.inputs())[1:3]) for node in nodes]
        first = nodes[0]
        graph.setInsertPoint(first)
        joined = [graph.insertConstant(torch.cat(parts)) for parts in zip(*weights, strict=True)]
        made = graph.create(LINEAR_INT8, [first.inputsAt(0), *joined, first.inputsAt(3)], 1)
        graph.insertNode(made)
        end = 0
        for node, (codes, _) in zip(nodes, weights, strict=True):
            begin, end = end, end + len(codes)
            bounds = [graph.insertConstant(number) for number in (-1, begin, end, 1)]
            part = graph.create("aten::slice", [made.output(), *bounds], 1)
            graph.insertNode(part)
            node.output().replaceAllUsesWith(part.output())
        for node in nodes:
            node.destroy()


def _has_kernel(codes: torch.Tensor, rest: Sequence[Any]) -> bool:
    """False where sums may wrap, or where windows lie in the padding alone: oneDNN reads what is not there then.

    Args:
        rest: as in _kernel.
    """
    if codes[0].numel() > _MOST_SUMMED:
        return False
    if not rest:
        return True
    _, padding, dilation, *_ = rest
    reach = [(extent - 1) * step + 1 for extent, step in zip(codes.shape[2:], dilation, strict=True)]
    return all(pad < most for pad, most in zip(padding, reach, strict=True))


def _number(value: Any) -> Any:
    """Of a constant, or a list of constants."""
    if value.node().kind() == "prim::ListConstruct":
        return [item.toIValue() for item in value.node().inputs()]
    return value.toIValue()


def _kernel(
    codes: torch.Tensor, scale: torch.Tensor, rest: Sequence[Any], num_rows: int
) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor], int]:
    """What computes the operator by integers, its weights packed and zeros, and how many of `rest` it takes.

    Args:
        rest: the operator's arguments behind its bias.
    """
    zeros = torch.zeros(codes.shape[0], dtype=torch.int64)
    if not rest:
        return _by_integers, [_packed(codes, num_rows), zeros, _numbers()], 0
    *sizes, step, zero = rest
    if step is None:
        return _conv_by_integers, [_packed_conv(codes, scale, sizes, 128), zeros], 4
    return _conv_by_steps, [_packed_conv(codes, scale, sizes, zero), zeros], 6


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
    names = ("edgecompile.linear_int8", "edgecompile.conv_int8")
    found = [node for node in module.graph.nodes if str(node.target).startswith(names)]
    read: list[torch.Tensor] = []
    for index, node in enumerate(found):
        x, codes, scale, *rest = node.args
        if codes.op != "get_attr" or scale.op != "get_attr":
            continue
        own, worth = (attrgetter(str(item.target))(module) for item in (codes, scale))
        bias, *others = rest or [node.kwargs.get("bias")]
        if not _has_kernel(own, others):
            continue
        helper, values, kept = _kernel(own.detach(), worth.detach(), others, num_rows)
        called = [f"{word}_{index}" for word in ("packed", "zeros", "numbers")[: len(values)]]
        for name, value in zip(called, values, strict=True):
            module.register_buffer(name, value, persistent=False)
        with module.graph.inserting_before(node):
            places = [module.graph.get_attr(name) for name in called]
            arguments = (x, places[0], scale, places[1], bias, *places[2:], *others[:kept])
            made = module.graph.call_function(helper, arguments)
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
