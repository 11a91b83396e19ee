"""The operators of eight bits by integer kernels: oneDNN's and FBGEMM's, put into a loaded shard's graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgecompile.execution import torchscript
from edgecompile.execution.attention import ATTEND
from edgecompile.execution.fusion.graph_nodes import share_out
from edgecompile.execution.low_precision import CONV_INT8, LEAST, LEVELS, LINEAR_INT8, cpu_flags
from edgecompile.execution.row_kernels import register_row_kernels

if TYPE_CHECKING:
    from torch import fx

__all__ = ["integer_exported", "integer_traced"]

_MOST_SUMMED = (2**31 - 1) // (255 * LEVELS)
"""Wider rows could pass what the sums of the integer kernel hold, whose activations run from 0 to 255."""


def _by_integers(
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor, bias: torch.Tensor | None,
    numbers: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """linear_int8 with weights as oneDNN packs them; it takes activations without a sign alone at full speed.

    Args:
        numbers: the largest code, the code of zero, and what the largest value of a row is at least; Python's own
            become tensors at each call, which takes a third of what a small product does.
    """
    rows = torch.maximum(torch.amax(torch.abs(x), [-1], True), numbers[2])
    codes = torch.mul(x, torch.div(numbers[0], rows)).round_().add_(numbers[1]).to(torch.uint8)
    product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, 1.0 / 127.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    ).mul_(rows)
    if bias is not None:
        product = product.add_(bias)
    return product


def _by_fbgemm(
    x: torch.Tensor,
    packed: torch.classes.quantized.LinearPackedParamsBase,  # type: ignore[name-defined]
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """linear_int8 with weights as FBGEMM packs them.

    It turns activations into codes itself, with one step for the whole message: so each row is scaled to steps of 1.
    """
    scaled, worth = torch.ops.edgecompile.scale_rows(x)
    product: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        scaled, 1.0, 128, packed
    ).mul_(worth)
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


def _fbgemm_pays(codes: torch.Tensor, *, few_rows: bool) -> bool:
    """For few rows FBGEMM reads weights 1.3 to 2 times as fast as oneDNN's kernels; for many both are as fast, except
    where the result is wide: there oneDNN's are up to 1.25 times as fast (AMD EPYC of the Zen 4 generation).

    Its kernels for processors without the instructions of AVX-512 VNNI add up in 16 bits, and may wrap.
    """
    if "avx512_vnni" not in cpu_flags() or "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    return codes.dim() == 2 and (few_rows or codes.shape[0] <= codes.shape[1])


def _packed_by_fbgemm(codes: torch.Tensor, scale: torch.Tensor) -> Any:
    register_row_kernels()
    engine, zeros = torch.backends.quantized.engine, torch.zeros(codes.shape[0], dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions")
        whole = torch._make_per_channel_quantized_tensor(codes.contiguous(), scale.double() / LEVELS, zeros, 0)
    torch.backends.quantized.engine = "fbgemm"
    try:
        return torch.ops.quantized.linear_prepack(whole, None)
    finally:
        torch.backends.quantized.engine = engine


def _packed_conv(codes: torch.Tensor, scale: torch.Tensor, sizes: Sequence[Any], zero: int) -> torch.Tensor:
    stride, padding, dilation, groups = sizes
    result: torch.Tensor = torch.ops.onednn.qconv_prepack(
        codes.contiguous(), scale, 1.0, zero, stride, padding, dilation, groups, None
    )
    return result


# --- TorchScript -----------------------------------------------------------------------------------------------------


def integer_traced(graph: Any, num_rows: int = 256, *, consume: bool = False) -> list[Any]:
    """Rewrites the operators, where their weights are constants of the graph, for integer kernels.

    Args:
        graph: changed in place; it takes what is returned, tensors and packed weights, behind its inputs.
        consume: lets go of the codes themselves.
    """
    packed: list[Any] = []
    _join_products(graph)
    few_rows = graph.findNode(ATTEND, recurse=True) is not None
    for node in [*graph.findAllNodes(LINEAR_INT8, recurse=True), *graph.findAllNodes(CONV_INT8, recurse=True)]:
        x, codes, scale, bias, *rest = node.inputs()
        if any(value.node().kind() != "prim::Constant" for value in (codes, scale)):
            continue
        own, given = codes.node().t("value"), [_number(value) for value in rest]
        if not _has_kernel(own, given):
            continue
        kernel = _kernel(own, scale.node().t("value"), given, num_rows, few_rows=few_rows)
        arguments = [x]
        for value in kernel.arguments:
            if isinstance(value, str):
                arguments.append({"scale": scale, "bias": bias}[value])
                continue
            place = graph.addInput()
            place.setType(torch._C.TensorType.get() if isinstance(value, torch.Tensor) else value._type())
            arguments.append(place)
            packed.append(value)
        arguments += rest[: kernel.num_sizes]
        alone = len(codes.uses()) == 1
        scripted = torchscript.graph_of(kernel.function)
        names = dict(zip((item.debugName() for item in scripted.inputs()), arguments, strict=True))
        node.output().replaceAllUsesWith(_inlined(graph, node, scripted, names))
        node.destroy()
        if consume and alone:
            own.set_()
    return packed


def _join_products(graph: Any) -> None:
    """Products of the same activations become one, whose result is cut: queries, keys and values of attention, say.

    So activations are turned into codes once, and what a call costs beside its work is spent once.
    """
    alike: dict[tuple[str, bool], list[Any]] = {}
    for node in graph.findAllNodes(LINEAR_INT8, recurse=False):
        x, codes, scale, bias = node.inputs()
        constant = all(value.node().kind() == "prim::Constant" for value in (codes, scale, bias))
        if constant and _has_kernel(codes.node().t("value"), ()):
            alike.setdefault((x.debugName(), bias.toIValue() is not None), []).append(node)
    for (_, biased), nodes in alike.items():
        if len(nodes) < 2:
            continue
        count = 4 if biased else 3
        weights = [tuple(value.node().t("value") for value in list(node.inputs())[1:count]) for node in nodes]
        first = nodes[0]
        graph.setInsertPoint(first)
        joined = [graph.insertConstant(torch.cat(parts)) for parts in zip(*weights, strict=True)]
        rest = [] if biased else [first.inputsAt(3)]
        made = graph.create(LINEAR_INT8, [first.inputsAt(0), *joined, *rest], 1)
        graph.insertNode(made)
        share_out(graph, nodes, made.output(), [len(parts[0]) for parts in weights])


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


def _by_onednn(codes: torch.Tensor, num_rows: int) -> _Kernel:
    packed = torch.ops.onednn.qlinear_prepack(codes.contiguous(), [max(1, num_rows), codes.shape[1]])
    numbers = torch.tensor([float(LEVELS), 128.0, LEAST])
    return _Kernel(_by_integers, (packed, "scale", torch.zeros(len(codes), dtype=torch.int64), "bias", numbers))


def _number(value: Any) -> Any:
    """Of a constant, or a list of constants."""
    if value.node().kind() == "prim::ListConstruct":
        return [item.toIValue() for item in value.node().inputs()]
    return value.toIValue()


@dataclass(frozen=True)
class _Kernel:
    """What computes an operator by integers."""

    function: Callable[..., torch.Tensor]
    arguments: tuple[Any, ...]
    """Behind the activations: tensors, packed weights, and the names of those of the operator that it takes."""
    num_sizes: int = 0
    """How many of the operator's arguments behind its bias it takes then."""

    def __call__(
        self, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, rest: Sequence[Any]
    ) -> torch.Tensor:
        given = {"scale": scale, "bias": bias}
        arguments = [given[value] if isinstance(value, str) else value for value in self.arguments]
        return self.function(x, *arguments, *rest[: self.num_sizes])


class _KernelModule(nn.Module):
    """For graphs of torch.fx, which hold tensors and modules alone."""

    def __init__(self, kernel: _Kernel) -> None:
        super().__init__()
        self._kernel = kernel

    def forward(
        self, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, rest: Sequence[Any]
    ) -> torch.Tensor:
        return self._kernel(x, scale, bias, rest)


def _kernel(codes: torch.Tensor, scale: torch.Tensor, rest: Sequence[Any], num_rows: int, *, few_rows: bool) -> _Kernel:
    """
    Args:
        rest: the operator's arguments behind its bias.
        few_rows: most messages have.
    """
    if not rest and _fbgemm_pays(codes, few_rows=few_rows):
        return _Kernel(_by_fbgemm, (_packed_by_fbgemm(codes, scale), "bias"))
    if not rest:
        return _by_onednn(codes, num_rows)
    zeros = torch.zeros(codes.shape[0], dtype=torch.int64)
    *sizes, step, zero = rest
    if step is None:
        return _Kernel(_conv_by_integers, (_packed_conv(codes, scale, sizes, 128), "scale", zeros, "bias"), 4)
    return _Kernel(_conv_by_steps, (_packed_conv(codes, scale, sizes, zero), "scale", zeros, "bias"), 6)


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
    few_rows = any(str(node.target).startswith("edgecompile.attend") for node in module.graph.nodes)
    read: list[torch.Tensor] = []
    for index, node in enumerate(found):
        x, codes, scale, *rest = node.args
        if codes.op != "get_attr" or scale.op != "get_attr":
            continue
        own, worth = (attrgetter(str(item.target))(module) for item in (codes, scale))
        bias, *others = rest or [node.kwargs.get("bias")]
        if not _has_kernel(own, others):
            continue
        kernel = _kernel(own.detach(), worth.detach(), others, num_rows, few_rows=few_rows)
        module.add_submodule(name := f"integers_{index}", _KernelModule(kernel))
        with module.graph.inserting_before(node):
            made = module.graph.call_module(name, (x, scale, bias, tuple(others)))
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
