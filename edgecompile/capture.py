"""model -> fx.GraphModule whose nodes know their shapes.

torch.export is the default: torch.fx.symbolic_trace, kept as an option, fails on Python that looks at the data.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn

from edgecompile.domain import ModelSpec
from edgecompile.errors import UserError, choices
from edgecompile.graphs import propagate
from edgecompile.module_state import ModuleState
from edgecompile.schema import CaptureMethod

__all__ = ["Captured", "FlatModel", "capture"]

_MOST_OUTPUTS = 256


@dataclass(frozen=True, kw_only=True)
class Captured:
    """The whole model as one graph: a placeholder for each input, in order, and one flat tuple of outputs."""

    graph_module: fx.GraphModule
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


class _Found:
    """Outside the module's own state, which torch.export puts back after tracing."""

    names: tuple[str, ...] = ()


class FlatModel(nn.Module):
    """Calls `module` with its inputs by name and returns the chosen outputs as a flat tuple of tensors.

    Attributes:
        output_names: filled by the first call; nested results have dotted names, such as `hidden_states.0`.
    """

    def __init__(
        self,
        module: nn.Module,
        input_names: Sequence[str],
        outputs: Sequence[str],
        pixels: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        """`pixels`: the mean and deviation of each channel, where the first input takes images as uint8."""
        super().__init__()
        if pixels is not None:
            mean, deviation = (torch.tensor(values).reshape(1, -1, 1, 1) * 255 for values in pixels)
            self.register_buffer("pixel_mean", mean, persistent=False)
            self.register_buffer("pixel_scale", 1 / deviation, persistent=False)
        self._has_pixels = pixels is not None
        self.module = module
        self.names = tuple(input_names)
        self._outputs = tuple(outputs)
        self._by_name = _takes_names(module, self.names)
        self._found = _Found()

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._found.names

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._has_pixels:
            mean, scale = self.get_buffer("pixel_mean"), self.get_buffer("pixel_scale")
            args = ((args[0].to(torch.float32) - mean) * scale, *args[1:])
        named = dict(zip(self.names, args, strict=True))
        result = self.module(**named) if self._by_name else self.module(*args)
        chosen = _flatten(_choose(result, self._outputs))
        if not chosen:
            raise UserError("model.output: the model returns no tensor")
        if len(chosen) > _MOST_OUTPUTS:
            raise UserError(f"model.output: the model returns {len(chosen)} tensors: choose some with model.output")
        self._found.names = tuple(chosen)
        return tuple(chosen.values())


def _takes_names(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether forward() can be called with these names; otherwise inputs go by position.

    Raises:
        UserError: it can be called in neither way.
    """
    signature = inspect.signature(module.forward)
    try:
        signature.bind(**dict.fromkeys(names))
        return True
    except TypeError as error:
        try:
            signature.bind(*names)
        except TypeError:
            wrong = next((name for name in names if name not in signature.parameters), None)
            allowed = choices(signature.parameters, wrong)
            raise UserError(
                f"model.inputs: {type(module).__name__}.forward cannot take {', '.join(names)} ({error}): "
                f"its arguments are {allowed}"
            ) from None
        return False


def _choose(result: Any, outputs: tuple[str, ...]) -> Any:
    if not outputs:
        return result
    chosen: dict[str, Any] = {}
    for name in outputs:
        value = result
        for part in [name] if isinstance(result, Mapping) and name in result else name.split("."):
            value = _field(value, part, name, result)
        chosen[name] = value
    return chosen


def _field(value: Any, part: str, name: str, result: Any) -> Any:
    if isinstance(value, Mapping) and part in value:
        return value[part]
    if isinstance(value, (tuple, list)) and part.isdigit() and int(part) < len(value):
        return value[int(part)]
    if hasattr(value, "_fields") and part in value._fields:
        return getattr(value, part)
    if isinstance(value, (torch.Tensor, fx.Proxy)) and name in ("0", "output"):
        return value
    raise UserError(f"model.output: the result has no field {name!r}: its fields are {choices(_flatten(result), name)}")


def _flatten(result: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(result, fx.Proxy):  # stands for a tensor while fx traces
        return {prefix or "output": cast(torch.Tensor, result)}
    if isinstance(result, torch.Tensor):
        return {prefix or "output": result}
    if isinstance(result, Mapping):
        pairs = [(str(key), value) for key, value in result.items()]
    elif hasattr(result, "_fields"):
        pairs = [(key, getattr(result, key)) for key in result._fields]
    elif isinstance(result, (tuple, list)):
        pairs = [(str(index), value) for index, value in enumerate(result)]
    else:
        pairs = []  # None, flags and caches do not travel
    named: dict[str, torch.Tensor] = {}
    for key, value in pairs:
        named.update(_flatten(value, f"{prefix}.{key}" if prefix else key))
    return named


def capture(flat: FlatModel, spec: ModelSpec, inputs: Sequence[torch.Tensor], method: CaptureMethod) -> Captured:
    """The model as a graph for inputs of exactly these shapes.

    Args:
        flat: the model, called with `inputs` in the order of `spec.inputs`.
        inputs: one tensor an input, batch dimension first.

    Raises:
        UserError: the model cannot be captured; says what it does that stands in the way.
    """
    state = ModuleState(flat.module)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export's advice is for those who train what they export
            if method is CaptureMethod.export:
                graph_module = _export(flat, tuple(inputs))
            else:
                graph_module = _symbolic_trace(flat, tuple(inputs))
    except UserError:
        raise
    except Exception as error:  # both tracers raise whatever the model's code raises on a proxy
        raise UserError(_explain(error, method, spec.name)) from error
    finally:
        state.restore()  # a model that stores what it computes would hold the tracer's tensors
    return Captured(
        graph_module=graph_module,
        input_names=tuple(item.name for item in spec.inputs),
        output_names=flat.output_names,
    )


def _explain(error: Exception, method: CaptureMethod, name: str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    hint = "try capture=export, which traces more models"
    if method is CaptureMethod.export:
        data = "DataDependent" in type(error).__name__
        hint = "its control flow looks at data" if data else "does it run on inputs of the shapes in model.inputs?"
    return f"capture={method.value}: cannot trace the model {name!r}: {type(error).__name__}: {first} ({hint})"


def _export(flat: nn.Module, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    program = torch.export.export(flat, inputs, strict=False)
    if any(_mutates(node) for node in program.graph.nodes):
        program = program.run_decompositions({})
    graph_module = program.module()
    assert isinstance(graph_module, fx.GraphModule)
    # A plain graph takes positions and returns a tuple; export's own calling convention carries guards with it.
    graph_module.graph.set_codegen(fx.graph.CodeGen())
    (output,) = [node for node in graph_module.graph.nodes if node.op == "output"]
    output.args = (tuple(output.args[0]),)
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph_module.graph.erase_node(node)
        elif node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            # A boundary's tensors arrive contiguous: what was a view of a transposed tensor may need a copy there.
            node.target = torch.ops.aten.reshape.default
        elif node.target is torch.ops.aten.copy_.default and node.args[0].op in ("placeholder", "get_attr"):
            # What the model writes into its input or a buffer is read by nobody: reference.py has seen to that.
            node.replace_all_uses_with(node.args[1])
            graph_module.graph.erase_node(node)
        elif node.target is torch.ops.aten.view_as.default:
            node.target = torch.ops.aten.reshape_as.default
    return fx.GraphModule(graph_module, graph_module.graph, class_name="Model")


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


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
    traced = fx.GraphModule(root, _Tracer().trace(root), class_name="Model")
    for node in traced.graph.nodes:
        of_dtype = "dtype" in node.kwargs or any(isinstance(value, torch.dtype) for value in node.args)
        if node.op == "call_method" and node.target in ("view", "view_as") and not of_dtype:
            node.target = str(node.target).replace("view", "reshape")  # for the same reason as in _export
    traced.recompile()
    propagate(traced, inputs)
    if any(node.meta["writes"] for node in traced.graph.nodes):
        return _export(traced, inputs)
    return traced
