"""Repacks a shard's weights into the layout that is fastest on this machine, when the shard is loaded.

A product of activations and constant weights goes through BLAS, which rearranges the weights at each call. oneDNN can
rearrange them once ("prepacking", as TorchInductor does when it freezes a model). On an AMD EPYC of the Zen 4
generation, one thread, that makes vit_base's products 12 to 24 % faster than MKL's; on Intel's own processors MKL is
taken to be as fast. Which is faster depends on the machine that runs the shard: so the file holds plain weights.
"""

from __future__ import annotations

import functools
import json
import math
import platform
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgecompile.contract.closed_sets import WEIGHT_ONLY, Precision
from edgecompile.execution.fusion.product_finder import fuse_products
from edgecompile.execution.graph_folding import fold_graph
from edgecompile.execution.integer_kernels import integer_exported, integer_traced
from edgecompile.execution.low_precision import fast_here
from edgecompile.execution.weight_only import kernels_here, weights_exported, weights_traced

if TYPE_CHECKING:
    from torch import fx

__all__ = ["ROWS_RECORD", "exported_rows", "pays_here", "prepack_exported", "prepack_traced", "product_rows", "rows_in"]

ROWS_RECORD = "product_rows.json"
"""The file of a TorchScript archive that holds product_rows of its graph."""

LEAST_WEIGHTS, LEAST_FLOPS = 500_000, 20e6
"""Below both, a call of oneDNN costs more than it saves: weights of 16 x 16 to 3072 x 768, 1 to 197 rows."""

_USUAL_ROWS = 256

Stage = Callable[..., Any]


def rows_in(record: str | bytes) -> list[int]:
    """product_rows as a shard's archive holds them; none where it is of another version or damaged."""
    try:
        rows = json.loads(record)
    except ValueError:
        return []
    return rows if isinstance(rows, list) and all(isinstance(count, int) for count in rows) else []


def pays_here(policy: str, precision: str = Precision.FP32) -> bool:
    """Whether a stage's weights are to be prepacked on this machine's CPU.

    Args:
        policy: `runtime.prepack`: `auto` (x86 processors other than Intel's), `always` (wherever oneDNN is) or `never`.
        precision: the stage's; weights of eight bits are prepacked wherever there are instructions for them.
    """
    if policy == "never" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    codes = precision in (Precision.INT8, *WEIGHT_ONLY) and fast_here(Precision(precision))
    return policy == "always" or codes or _x86_of_others()


@functools.cache
def _x86_of_others() -> bool:
    if platform.machine() not in ("x86_64", "AMD64") or torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    vendors = {line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")}
    return bool(vendors) and "GenuineIntel" not in vendors


def _pays(weight: torch.Tensor, num_rows: int) -> bool:
    """One row is a product of a matrix and a vector, bound by memory: nothing is to be gained."""
    if weight.dim() != 2 or num_rows < 2:
        return False
    if weight.dtype is torch.bfloat16:
        return fast_here(Precision.BF16)
    if weight.dtype is not torch.float32:
        return False
    return weight.numel() >= LEAST_WEIGHTS or 2 * num_rows * weight.numel() >= LEAST_FLOPS


def _packed(weight: torch.Tensor, num_rows: int) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), num_rows)
    return result


# --- TorchScript -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Product:
    """A node of a TorchScript graph: activations (rows, in) times the weights (out, in) of a constant, plus a bias."""

    node: Any
    constant: Any
    """The value that holds the weights, (in, out) where `transposed`."""
    transposed: bool
    num_rows: int

    def activations(self) -> Any:
        return self.node.inputsAt(1 if self.transposed else 0)

    def bias(self) -> Any:
        return self.node.inputsAt(0 if self.transposed else 2)

    def weight(self) -> torch.Tensor:
        value: torch.Tensor = self.constant.node().t("value")
        return value.t() if self.transposed else value


def product_rows(graph: Any) -> list[int]:
    """How many rows each product of a traced graph has, in order. A loaded shard no longer knows shapes."""
    sizes = [node.output().type().sizes() for node in _product_nodes(graph)]
    return [math.prod(size[:-1]) if size else 0 for size in sizes]


def prepack_traced(
    module: Any, rows: Sequence[int], *, consume: bool = False, known: dict[Hashable, torch.Tensor] | None = None
) -> Stage:
    """A frozen TorchScript module, or a BoundProgram, with its large products' weights prepacked; itself without any.

    Args:
        rows: of each product, in order, as product_rows counted them. With another number nothing is prepacked.
        consume: lets go of the module's own weights one by one, so that memory never holds both: it is of no use then.
        known: weights that other modules read too, prepacked, by what the plain ones are; more are added.
    """
    known = {} if known is None else known
    graph = module.graph.copy()
    nodes = _product_nodes(graph)
    itself = next(iter(graph.inputs()))
    has_self = itself.type().kind() == "ClassType"
    if len(nodes) != len(rows) or (has_self and itself.uses()):
        return module  # type: ignore[no-any-return]
    by_constant: dict[str, list[_Product]] = {}
    for node, num_rows in zip(nodes, rows, strict=True):
        product = _product(node, num_rows)
        if product is not None and _pays(product.weight(), num_rows):
            by_constant.setdefault(product.constant.debugName(), []).append(product)
    packed: list[torch.Tensor] = []
    for products in by_constant.values():
        first = products[0]
        if any(product.transposed != first.transposed for product in products):
            continue
        place = graph.addInput()
        own = first.constant.node().t("value")
        plain = first.weight()
        what = (plain.data_ptr(), tuple(plain.shape), plain.stride())  # a view may begin at the same address
        if what not in known:
            known[what] = _packed(plain, first.num_rows)
        packed.append(known[what])
        alone = len(first.constant.uses()) == len(products)
        for product in products:
            _replace(graph, product, place)
        if consume and alone:
            own.set_()
    fused = fuse_products(graph, consume=consume)
    coded, num_folded = _rewrite_codes(graph, max(rows, default=_USUAL_ROWS), consume=consume)
    packed += coded
    if not num_folded and not packed and not fused:
        return module  # type: ignore[no-any-return]
    if has_self:
        graph.eraseInput(0)
    torch._C._jit_pass_dce(graph)
    function = torch._C._create_function_from_graph("forward", graph)
    return _Prepacked(function, packed, fused)


@dataclass(frozen=True)
class _Prepacked:
    function: Any
    packed: Sequence[Any]
    """What it takes behind its inputs."""
    fused: Sequence[Any]
    """What its graph knows by number: kept as long as it may run."""

    def __call__(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs, *self.packed)


def _rewrite_codes(graph: Any, num_rows: int, *, consume: bool) -> tuple[list[Any], int]:
    """What the graph takes behind its inputs for its products of codes, and how many patterns were folded."""
    given = integer_traced(graph, num_rows, consume=consume) if fast_here(Precision.INT8) else []
    num_folded = fold_graph(graph)
    given += weights_traced(graph, consume=consume) if kernels_here() else []
    return given, num_folded


def _product_nodes(graph: Any) -> list[Any]:
    return [node for node in graph.nodes() if node.kind() in ("aten::linear", "aten::addmm")]


def _product(node: Any, num_rows: int) -> _Product | None:
    """None where the weights are not constant, or a product is scaled."""
    values = list(node.inputs())
    transposed = node.kind() == "aten::addmm"
    if transposed:
        bias, _, constant, *scales = values
        if any(scale.node().kind() != "prim::Constant" or scale.toIValue() != 1 for scale in scales):
            return None
        if bias.type().kind() != "TensorType" or not _is_vector(bias):
            return None
    else:
        constant = values[1]
    if constant.node().kind() != "prim::Constant" or constant.type().kind() != "TensorType":
        return None
    return _Product(node, constant, transposed, num_rows)


def _is_vector(value: Any) -> bool:
    return bool(value.node().kind() == "prim::Constant" and value.node().t("value").dim() == 1)


def _replace(graph: Any, product: _Product, packed: Any) -> None:
    graph.setInsertPoint(product.node)
    scalars = graph.create("prim::ListConstruct", [], 1)
    scalars.output().setType(torch._C.ListType(torch._C.OptionalType(torch._C.NumberType.get())))
    graph.insertNode(scalars)
    inputs = [product.activations(), packed, product.bias()]
    inputs += [graph.insertConstant("none"), scalars.output(), graph.insertConstant("")]
    pointwise = graph.create("mkldnn::_linear_pointwise", inputs, 1)
    graph.insertNode(pointwise)
    product.node.output().replaceAllUsesWith(pointwise.output())


# --- torch.export ----------------------------------------------------------------------------------------------------


def exported_rows(program: torch.export.ExportedProgram) -> list[int]:
    """As product_rows, at the sizes that it was exported with."""
    shapes = [node.meta["val"].shape[:-1] for node in _exported_products(program.graph)]
    return [math.prod(_extent(part) for part in shape) for shape in shapes]


def _extent(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def _exported_products(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.target is torch.ops.aten.linear.default]


def prepack_exported(module: fx.GraphModule, rows: Sequence[int]) -> fx.GraphModule:
    """The same for an exported program's module, which is changed in place and lets go of its own weights.

    Args:
        rows: as exported_rows counted them. With another number nothing is prepacked.
    """
    by_weight: dict[Hashable, list[fx.Node]] = {}
    num_rows: dict[Hashable, int] = {}
    products = _exported_products(module.graph)
    if len(products) != len(rows):
        return module
    for node, count in zip(products, rows, strict=True):
        source: Any = node.args[1]
        if source.op == "get_attr" and _pays(own := attrgetter(source.target)(module), count):
            key = (own.data_ptr(), tuple(own.shape), own.stride())  # equal weights are stored once, under two names
            by_weight.setdefault(key, []).append(node)
            num_rows.setdefault(key, count)
    for index, (what, nodes) in enumerate(by_weight.items()):
        name = f"prepacked_{index}"
        sources: dict[Any, None] = dict.fromkeys(node.args[1] for node in nodes)
        with torch.no_grad():
            packed = _packed(attrgetter(str(next(iter(sources)).target))(module).detach(), num_rows[what])
            if sum(len(source.users) for source in sources) == len(nodes):
                for source in sources:
                    attrgetter(str(source.target))(module).set_()
        module.register_buffer(name, packed, persistent=False)
        for node in nodes:
            bias = node.args[2] if len(node.args) > 2 else None
            with module.graph.inserting_before(node):
                arguments: Any = (node.args[0], module.graph.get_attr(name), bias, "none", [], "")
                pointwise = module.graph.call_function(torch.ops.mkldnn._linear_pointwise.default, arguments)
            node.replace_all_uses_with(pointwise)
            module.graph.erase_node(node)
    if by_weight:
        module.graph.eliminate_dead_code()
        module.recompile()
    module = weights_exported(module)
    return integer_exported(module, max(rows, default=_USUAL_ROWS)) if fast_here(Precision.INT8) else module
