"""Rejects models that draw random numbers or keep state between calls, and names where."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgecompile.contract.errors import UserError
from edgecompile.execution.closeness import scale_of
from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.graphs import called_module, module_path, op_name
from edgecompile.frontend.capture.module_state import ModuleState
from edgecompile.frontend.capture.source_lines import calling_line
from edgecompile.frontend.golden.eager import Eager, Outputs, groups_of

__all__ = ["check_graph", "explain_failure", "watched_run"]

_RANDOM_CALLS = frozenset(
    {
        "rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "bernoulli", "multinomial",
        "normal", "uniform", "exponential", "random", "poisson", "gumbel_softmax", "dropout", "dropout1d", "dropout2d",
        "dropout3d", "alpha_dropout", "feature_alpha_dropout", "rrelu",
    }
)  # fmt: skip
"""As symbolic_trace writes them; in-place ones end in an underscore. Operators of an exported graph have a tag."""
_BATCH_NORMS = frozenset(
    {"batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional",
     "cudnn_batch_norm"}
)  # fmt: skip


# --- the captured graph ----------------------------------------------------------------------------------------------


def check_graph(captured: Captured) -> None:
    """Refuses operators that draw random numbers, and batch norms that write their running statistics.

    Raises:
        UserError: names the operator and its module.
    """
    for node in captured.graph_module.graph.nodes:
        where = f" of the module {module_path(node)!r}" if module_path(node) else ""
        if _draws(node):
            raise UserError(
                f"the model is random: its operator {op_name(node)}{where} draws random numbers at each call: "
                "dropout takes training=self.training, so that it stops in eval mode; draw what must be random before "
                "the model, and make it an input"
            )
        if _trains(node):
            raise UserError(
                f"the model keeps state between calls: the batch norm{where} runs in training mode (training=True) "
                "even after model.eval(), writes its running statistics and mixes the items of a microbatch: give it "
                "training=self.training"
            )


def _draws(node: fx.Node) -> bool:
    """Whether the operator draws: dropout does in training mode alone, attention where it drops something."""
    if node.op == "call_module":
        module = called_module(node)
        return isinstance(module, (nn.modules.dropout._DropoutNd, nn.RReLU)) and module.training
    if node.op not in ("call_function", "call_method"):
        return False
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        if op_name(node).rstrip("_") not in _RANDOM_CALLS:
            return False
        names = _names_of(node.target)
    else:
        if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            return False
        names = [argument.name for argument in schema.arguments]
    return _is_on(op_name(node), names, {**dict(zip(names, node.args, strict=False)), **node.kwargs})


def _is_on(name: str, names: Sequence[str], given: Mapping[str, Any]) -> bool:
    """Whether an operator that can draw does so with these arguments."""
    if "p" in names and given.get("p") == 0:
        return False
    for switch in ("train", "training", "dropout_p"):
        if switch in given or switch in names:
            return bool(given.get(switch, switch == "training" and "dropout" in name))
    return True


def _names_of(function: object) -> list[str]:
    """The names of a Python function's arguments; none where only C++ knows them."""
    try:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ["input", "p", "train"] if function is torch.dropout else []


def _trains(node: fx.Node) -> bool:
    """Whether a batch norm has running statistics and updates them; without any, it is left to the items' check."""
    if node.op == "call_module":
        module = called_module(node)
        return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    if node.op != "call_function" or op_name(node) not in _BATCH_NORMS:
        return False
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # torch.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training)
        names = ["input", "running_mean", "running_var", "weight", "bias", "training"]
    else:
        names = [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return bool(given.get("training")) and given.get("running_mean") is not None


def explain_failure(flat: FlatModel, examples: Sequence[torch.Tensor]) -> None:
    """Of a model that cannot be captured: raises UserError where it cannot run at all, is random or keeps state."""
    watched_run(Eager(flat, examples), len(examples[0]))


# --- the eager model -------------------------------------------------------------------------------------------------


def watched_run(eager: Eager, size: int) -> Outputs:
    """All items in microbatches of `size`, each from the state that the model was built with.

    Raises:
        UserError: the model draws random numbers, or its result depends on the calls before.
    """
    state = ModuleState(eager.flat.module)
    before = torch.random.get_rng_state()
    outputs = eager.run_groups(size)
    if not torch.equal(before, torch.random.get_rng_state()):
        raise UserError(f"the model is random: {_who_draws(eager, size)}")
    written = state.changes()
    if written:
        _check_history(eager, size, outputs, state, written)
        state.restore()
    return outputs


def _check_history(eager: Eager, size: int, outputs: Outputs, state: ModuleState, written: Sequence[str]) -> None:
    """Writing an attribute is harmless where nothing reads it: the last items must come out alike first and last.

    A model that fills a cache at its first call is told by that as well as one that counts.
    """
    rows, last = [eager.num_items - 1] * size, groups_of(eager.num_items, size)[-1]
    count = eager.num_items - last[0]
    after = eager.run(rows)
    fresh = eager.run(rows) if state.restore() else None
    first = eager.run(last) if state.restore() else None  # whole: items that influence each other are not state
    if (
        fresh is None
        or first is None
        or not _same(after, fresh)
        or not _same([value[:count] for value in first], [value[last[0] :] for value in outputs])
    ):
        names = ", ".join(written[:3]) + (f" and {len(written) - 3} more" if len(written) > 3 else "")
        raise UserError(
            f"the model keeps state between calls: its forward() writes {names}, and its result for an item depends "
            "on the calls before: make what it keeps an input and an output"
        )


def _same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    """Equal but for rounding."""
    return all(_near(one, other) for one, other in zip(first, second, strict=True))


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * scale_of(one), equal_nan=True)


def _who_draws(eager: Eager, size: int) -> str:
    watch = _DrawWatch()  # type: ignore[no-untyped-call]
    with watch:
        eager.run([min(place, eager.num_items - 1) for place in range(size)])
    return watch.found or "it draws random numbers at each call"


class _DrawWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds the first operator that moves torch's random state, and the line that calls it."""

    found = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = torch.random.get_rng_state()
        result = func(*args, **dict(kwargs or {}))
        if not self.found and not torch.equal(before, torch.random.get_rng_state()):
            name = str(func._schema.name).rpartition("::")[2]
            self.found = f"its operator {name} ({calling_line() or 'in torch'}) draws random numbers at each call"
        return result
