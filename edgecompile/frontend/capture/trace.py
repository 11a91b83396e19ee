"""Captures a model as an fx.GraphModule whose nodes carry their shapes and dtypes.

torch.export is the default: torch.fx.symbolic_trace, kept as an option, fails on Python that looks at the data.
"""

from __future__ import annotations

import io
import logging
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any

import torch
from torch import fx
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgecompile.config.methods import CaptureMethod
from edgecompile.config.model_spec import ModelSpec
from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Dim
from edgecompile.execution.closeness import relative_difference
from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.capture.dims import NotSymbolic, settle_numbers
from edgecompile.frontend.capture.export_graph import explain_operator, plain_graph
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.graphs import OperatorFailed, op_name, propagate
from edgecompile.frontend.capture.module_state import ModuleState
from edgecompile.frontend.capture.sampling import Sampling, cut
from edgecompile.frontend.capture.source_lines import calling_line, failing_call, first_line, users_frames

__all__ = ["capture", "capture_sized"]


_EXPORTED_BATCH = 4
_GUARD = re.compile(r"satisfy the generated guard (.+)")
_SIZE = re.compile(r"L\['args'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
_LEAST = re.compile(r"^\s+(\w+) = Dim\('\w+', min=(\d+)", re.MULTILINE)
_FIXED = re.compile(r"You marked (\w+) as dynamic but your code specialized it")
"""What torch.export says of extents that a model does not take alike."""
_TRACED_ROUNDING = 1e-4
"""Relative, or 16 units of the dtype's last place: the same operators ran on the same values."""


class _EvalDropout(TorchFunctionMode):
    """In eval mode dropout returns its argument itself, so that what writes into one writes into both.

    The operator's schema says that it returns a new tensor, and tracers believe that.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {**dict(zip(("input", "p", "training", "inplace"), args, strict=False)), **(kwargs or {})}
        if func in _DROPOUTS and given.get("training", True) is False:
            return given["input"]
        return func(*args, **(kwargs or {}))


_DROPOUTS = frozenset({functional.dropout, functional.alpha_dropout, functional.feature_alpha_dropout})
"""dropout1d and its like make a tensor of their own in eval mode too."""


def capture(flat: FlatModel, spec: ModelSpec, inputs: Sequence[torch.Tensor], method: CaptureMethod) -> Captured:
    """The model as a graph for inputs of exactly these shapes.

    Args:
        flat: the model, called with `inputs` in the order of `spec.inputs`.
        inputs: one tensor an input, batch dimension first.

    Raises:
        UserError: the model cannot be captured; says what it does that stands in the way, and where.
    """
    state = ModuleState(flat.module)
    _fill_caches(flat, inputs)
    state.restore()
    called = _LastCall()
    try:
        with torch.no_grad(), warnings.catch_warnings(), _silence(), users_frames(), _EvalDropout():
            warnings.simplefilter("ignore")  # torch.export's advice is for those who train what they export
            if method is CaptureMethod.export:
                with called:
                    program = torch.export.export(flat, tuple(inputs), strict=False)
                graph_module = plain_graph(program)
            else:
                graph_module = _symbolic_trace(flat, tuple(inputs))
    except UserError:
        raise
    except OperatorFailed as failed:
        raise UserError(explain_operator(failed)) from failed
    except Exception as error:  # both tracers raise whatever the model's code raises on a proxy
        raise UserError(_explain(error, method, spec.name, called)) from error
    finally:
        state.restore()  # a model that stores what it computes would hold the tracer's tensors
    _note_state(graph_module, spec)
    return Captured(
        graph_module=graph_module,
        input_names=tuple(item.name for item in spec.inputs),
        output_names=flat.output_names,
    )


def _note_state(graph_module: fx.GraphModule, spec: ModelSpec) -> None:
    """What attention over kept keys and values reads beside its own step, for its cost, and what they are kept in."""
    for node in graph_module.graph.nodes:
        if op_name(node) == "attend":
            node.meta["context"], node.meta["cache"] = spec.usual_context, spec.cache.value


def capture_sized(flat: FlatModel, spec: ModelSpec, inputs: Sequence[torch.Tensor], sampling: Sampling) -> Captured:
    """The model as a graph for any sizes within the dimensions, whose numbers are those of the sampling's first sizes.

    Raises:
        NotSymbolic: torch.export cannot follow the sizes through the model.
    """
    state = ModuleState(flat.module)
    _fill_caches(flat, inputs)
    state.restore()
    try:
        with torch.no_grad(), warnings.catch_warnings(), _silence(), users_frames(), _EvalDropout():
            warnings.simplefilter("ignore")
            examples = cut(inputs, sampling.input_dims, {**sampling.largest, BATCH: _EXPORTED_BATCH})
            named = {name: _exported_dim(name, dim) for name, dim in sampling.dims.items()}
            axes = [
                {axis: named[name] for axis, name in enumerate(names) if name is not None}
                for names in sampling.input_dims
            ]
            program = torch.export.export(flat, examples, strict=False, dynamic_shapes=(tuple(axes),))
            graph_module = plain_graph(program)
            _expand_fills(graph_module.graph)
            placeholders = [node.name for node in graph_module.graph.nodes if node.op == "placeholder"]
            settle_numbers(graph_module.graph, dict(zip(placeholders, sampling.input_dims, strict=True)), sampling.one)
            graph_module.recompile()
    except NotSymbolic:
        raise
    except Exception as error:  # as in capture(): which then says it in the user's words, if fixed shapes fail too
        raise NotSymbolic(_why_not(error, sampling)) from error
    finally:
        state.restore()
    _note_state(graph_module, spec)
    return Captured(
        graph_module=graph_module,
        input_names=tuple(item.name for item in spec.inputs),
        output_names=flat.output_names,
        sampling=sampling,
        unpassed=_copied(graph_module),
    )


def _why_not(error: Exception, sampling: Sampling) -> str:
    """In the names of the dimensions, where torch.export says for which extents the model's code is another."""
    guards = _GUARD.findall(str(error))
    fixed = _FIXED.search(str(error))
    if fixed is not None and not guards:
        return f"its code, or an operator in it, takes no other {fixed[1]} than it was captured with"
    if not guards:
        return f"{type(error).__name__}: {first_line(error)}"
    guard = _SIZE.sub(lambda found: str(sampling.input_dims[int(found[1])][int(found[2])]), guards[0])
    named = sampling.dims.keys() - {BATCH}
    least = [(name, extent) for name, extent in _LEAST.findall(str(error)) if name in named]
    advice = " (with model.dims.{}.min={} it would be)".format(*least[0]) if least else ""
    return f"the model's code is not the same for all of these extents: it is where {guard.rstrip('.')}{advice}"


def _expand_fills(graph: fx.Graph) -> None:
    """What is written over a part of a tensor, in a form that TorchScript has; with fixed shapes it is a constant."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.fill.Scalar:
            node.target = torch.ops.aten.full_like.default
        elif node.target is torch.ops.aten.fill.Tensor:
            filled, value = node.args
            with graph.inserting_before(node):
                cast = graph.call_function(torch.ops.aten.to.dtype, (value, node.meta["val"].dtype))
                whole = graph.call_function(torch.ops.aten.expand_as.default, (cast, filled))
            cast.meta, whole.meta = {**node.meta, "val": node.meta["val"].new_empty(())}, dict(node.meta)
            node.replace_all_uses_with(whole)
            graph.erase_node(node)


def _copied(graph_module: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.graph_copy(graph_module.graph, {}))
    return fx.GraphModule(graph_module, graph, class_name="Model")


def _exported_dim(name: str, dim: Dim) -> Any:
    """Of one item or position torch.export would make a case of its own; the graph takes them all the same."""
    return torch.export.Dim(name, min=1 if name == BATCH else max(2, dim.min), max=max(dim.max, _EXPORTED_BATCH))


def _fill_caches(flat: FlatModel, inputs: Sequence[torch.Tensor]) -> None:
    """Runs the model on one item, so that what it caches outside of its modules (a table, by length) is tensors.

    A tracer's tensors would stay in such a cache, which only the user's code knows, and be met at the next call.
    """
    with torch.no_grad(), warnings.catch_warnings(), suppress(Exception):  # the tracer has its own words for it
        warnings.simplefilter("ignore")
        flat(*(value[:1].clone() for value in inputs))


class _LastCall(TorchFunctionMode):
    """Remembers which of torch's functions failed first, and where torch.func or autograd came in."""

    failed: str | None = None
    transformed = ""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not self.transformed and (func is torch.autograd.grad or any(map(_is_transformed, args))):
            self.transformed = calling_line()
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.failed = self.failed or getattr(func, "__name__", None)
            raise


def _is_transformed(value: object) -> bool:
    return isinstance(value, torch.Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)


@contextmanager
def _silence() -> Iterator[None]:
    """Of torch's own pages of graphs and frames on standard error: what matters of them is in our line."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def _explain(error: Exception, method: CaptureMethod, name: str, called: _LastCall) -> str:
    place = failing_call(error, called.failed)
    start = f"capture={method.value}: cannot trace the model {name!r}: {f'{place}: ' if place else ''}"
    if "DataDependent" in type(error).__name__:
        return (
            f"{start}which branch runs depends on the data, and a graph has only one: compute both, and choose with "
            "torch.where"
        )
    if called.transformed and not place:
        return (
            f"{start}{called.transformed}: what torch.vmap, torch.func or torch.autograd.grad does here cannot be "
            "traced: write it as plain operators on the whole batch"
        )
    if "exported program constant" in str(error):
        return f"{start}a tensor escapes the tracer in forward(), such as by x.data: write x = y, or use x.detach()"
    hint = "" if method is CaptureMethod.export else " (try capture=export, which traces more models)"
    return f"{start}{type(error).__name__}: {first_line(error)}{hint}"


class _Proxy(fx.Proxy):
    """fx writes `x += y` down as `x + y`, which leaves other names of x as they were."""


def _in_place(target: Any) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda proxy, other: proxy.tracer.create_proxy("call_function", target, (proxy, other), {})


for _name in ("iadd", "isub", "imul", "imatmul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _symbolic_trace(flat: FlatModel, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """A graph without operators that write into tensors: where the model has some, torch.export rewrites them."""
    names = ", ".join(f"x{index}" for index, _ in enumerate(inputs))
    # fx needs a forward of fixed arity; the names are ours alone.
    forward = eval(f"lambda self, {names}: FlatModel.forward(self, {names})", {"FlatModel": FlatModel})  # noqa: S307
    fixed = type("FixedFlatModel", (FlatModel,), {"forward": forward})
    root: FlatModel = FlatModel.__new__(fixed)
    root.__dict__ = flat.__dict__
    tracer = _Tracer()
    tracer.record_stack_traces = True  # so that an operator can be named by its line
    graph = tracer.trace(root)
    traced = fx.GraphModule(root, graph, class_name="Model")
    for node in traced.graph.nodes:
        of_dtype = "dtype" in node.kwargs or any(isinstance(value, torch.dtype) for value in node.args)
        if node.op == "call_method" and node.target in ("view", "view_as") and not of_dtype:
            node.target = str(node.target).replace("view", "reshape")  # as in export_graph.py
    traced.recompile()
    propagate(traced, inputs)
    if any(node.meta["writes"] for node in traced.graph.nodes):
        traced = plain_graph(torch.export.export(traced, inputs, strict=False))
    _check_traced(traced, flat, inputs)
    return traced


def _check_traced(traced: fx.GraphModule, flat: FlatModel, inputs: tuple[torch.Tensor, ...]) -> None:
    """Raises UserError where symbolic_trace has missed a part: autocast, functional_call, what returns nothing."""
    names = flat.output_names
    got = traced(*(value.clone() for value in inputs))
    for name, value in zip(names, got, strict=True):
        if not isinstance(value, torch.Tensor):
            raise UserError(
                f"capture=symbolic_trace: the output {name!r} is the whole result of a module or function that it does "
                f"not look into (a {type(value).__name__}): take the tensors out of it in forward(), or use "
                "capture=export"
            )
    first, second = (flat(*(value.clone() for value in inputs)) for _ in range(2))
    for name, value, wanted, again in zip(names, got, first, second, strict=True):
        if not _computes(wanted, again):
            raise UserError(
                f"the model is random: its output {name!r} differs between two runs on the same input, or it keeps "
                "state between calls"
            )
        if not _computes(wanted, value):
            raise UserError(
                f"capture=symbolic_trace: the traced model computes another {name!r} than the model: something in "
                "forward() escapes this tracer, such as torch.autocast or torch.func.functional_call: use "
                "capture=export"
            )


def _computes(wanted: torch.Tensor, value: torch.Tensor) -> bool:
    if (value.shape, value.dtype) != (wanted.shape, wanted.dtype):
        return False
    last_place = torch.finfo(wanted.dtype).eps if wanted.is_floating_point() else 0.0
    return relative_difference(wanted, value) <= max(_TRACED_ROUNDING, 16 * last_place)
