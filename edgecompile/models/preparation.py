"""Prepares a user's module for capture: unwraps torch.compile, initialises lazy weights, rejects odd ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from edgecompile.config.model_spec import ModelSpec
from edgecompile.contract.errors import UserError

__all__ = ["fill_lazy", "fill_meta", "plain_module", "unmade_weights", "unwrapped"]


def plain_module(module: nn.Module, target: str) -> nn.Module:
    """The module itself, without torch.compile and nn.DataParallel around it or any part of it.

    Args:
        target: what built it, for messages.

    Raises:
        UserError: a part of it is TorchScript or quantised, or a weight is sparse or no plain tensor; names it.
    """
    module = _plain(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            plain = _plain(child)
            if plain is not child:
                setattr(parent, name, plain)
    if "torch._dynamo" in sys.modules:  # functions that torch.compile decorates run as they are
        torch.compiler.set_stance("force_eager")
    for name, part in module.named_modules():
        _check_part(part, f"model.build: {target} returned {f'{name!r} as' if name else ''}".rstrip())
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        _check_tensor(value, f"model.build: {target}: the weight {name!r}")
    return module


def unwrapped(module: nn.Module) -> nn.Module:
    """What torch.compile and nn.DataParallel stand around."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _plain(module: nn.Module) -> nn.Module:
    module = unwrapped(module)
    if getattr(module, "_compiled_call_impl", None) is not None:  # module.compile()
        module._compiled_call_impl = None
    return module


def _check_part(part: nn.Module, start: str) -> None:
    kind = type(part)
    scripted = getattr(getattr(torch, "jit", None), "ScriptModule", ())
    if isinstance(part, scripted):
        raise UserError(f"{start} a TorchScript module ({part.original_name}), which cannot be split: "
                        "return the nn.Module that it was made of")  # fmt: skip
    if kind.__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
        raise UserError(f"{start} a quantised {kind.__name__} ({kind.__module__}), whose packed weights cannot be "
                        "captured: return the model before it was quantised")  # fmt: skip


def _check_tensor(value: torch.Tensor, start: str) -> None:
    if is_lazy(value):
        return
    if value.layout is not torch.strided:
        raise UserError(f"{start} is sparse ({_word(value.layout)}): store it dense, with to_dense()")
    if value.is_quantized:
        raise UserError(f"{start} is quantised ({_word(value.dtype)}): store it as float, with dequantize()")
    if value.is_nested or torch.utils._python_dispatch.is_traceable_wrapper_subclass(value):
        raise UserError(f"{start} is a {type(value).__name__}, which no shard can hold: store it as a plain tensor")


def _word(value: object) -> str:
    return str(value).removeprefix("torch.")


def fill_lazy(module: nn.Module, spec: ModelSpec, inputs: Sequence[torch.Tensor], seed: int) -> None:
    """Runs a module once that waits for its first inputs to make its weights (nn.LazyLinear).

    Raises:
        UserError: it fails on the inputs, or does not use a weight that is still to be made.
    """
    from edgecompile.frontend.capture.flat_model import FlatModel

    torch.manual_seed(seed)
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
    try:
        with torch.no_grad():
            flat(*(value.clone() for value in inputs))
    except UserError:
        raise
    except Exception as error:  # whatever the user's model raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"model.build: the first run, which makes the weights of lazy modules, fails: {first}"
        ) from error
    unmade = unmade_weights(module)
    if unmade:
        raise UserError(
            f"model.build: the weight {unmade[0]!r} of a lazy module was not made by a first run: "
            "give the module its sizes"
        )
    module.requires_grad_(False)


def unmade_weights(module: nn.Module) -> list[str]:
    """The names of weights that have no shape yet."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, value in named if is_lazy(value)]


class Room(Protocol):
    def __call__(self, shape: Sequence[int], *, dtype: torch.dtype) -> torch.Tensor: ...


def _in_memory(shape: Sequence[int], *, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(tuple(shape), dtype=dtype)


def fill_meta(module: nn.Module, target: str, weights: str | None = "any", room: Room = _in_memory) -> None:
    """Gives tensors of the meta device, which have a shape alone, room on the CPU for the values of a file.

    Args:
        weights: the file; where values do not matter, as to edgeprofile, any will do.
        room: makes a tensor of zeros.

    Raises:
        UserError: no file is given, or it cannot hold a tensor, which is not part of the module's state.
    """
    stored = set(module.state_dict())
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # what is replaced stays, so that no id is used again
    for kind, name, path in _meta_tensors(module):
        if weights is None:
            raise UserError(
                f"model.build: {target} made {path!r} on the meta device, without values: "
                "load them with weights=FILE, or build the model on the CPU"
            )
        if path not in stored:
            raise UserError(
                f"model.build: {target} made the buffer {path!r} on the meta device, and no file holds it, since it "
                "is not persistent: build the model on the CPU"
            )
        value = kind[name]
        if id(value) not in made:
            empty = room(value.shape, dtype=value.dtype)
            if isinstance(value, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=False)
            made[id(value)] = value, empty
        kind[name] = made[id(value)][1]


def _meta_tensors(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, str]]:
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for kind in (owner._parameters, owner._buffers):
            for name, value in list(kind.items()):
                if value is not None and value.is_meta:
                    yield kind, name, f"{prefix}.{name}" if prefix else name
