"""A model as a function of its inputs, in order, to a flat tuple of the tensors that are kept of its result."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch
from torch import fx, nn

from edgecompile.contract.errors import UserError, choices

__all__ = ["FlatModel"]

_MOST_OUTPUTS = 256


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
            raise UserError(
                f"model.output: the model returns no tensor, but a {type(result).__name__}: return tensors, alone or "
                "in tuples, lists, mappings or dataclasses"
            )
        if len(chosen) > _MOST_OUTPUTS:
            raise UserError(f"model.output: the model returns {len(chosen)} tensors: choose some with model.output")
        self._found.names = tuple(chosen)
        return tuple(chosen.values())


def _takes_names(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether forward() can be called with these names. Otherwise inputs go by position: one alone, or arguments that
    can be given in no other way.

    Raises:
        UserError: it can be called in neither way, or its arguments have other names: of several inputs one could take
            the place of another.
    """
    signature = inspect.signature(module.forward)
    try:
        signature.bind(**dict.fromkeys(names))
        return True
    except TypeError as error:
        wrong = next((name for name in names if name not in signature.parameters), None)
        in_place = list(names) == list(signature.parameters)[: len(names)]
        nameless = any(item.kind is item.VAR_POSITIONAL for item in signature.parameters.values())
        fits = len(names) == 1 or in_place or nameless
        try:
            signature.bind(*names)
        except TypeError:
            fits = False
        if not fits:
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
        for part in [name] if name in dict(_fields(result) or ()) else name.split("."):
            value = _field(value, part, name, result)
        chosen[name] = value
    return chosen


def _field(value: Any, part: str, name: str, result: Any) -> Any:
    if isinstance(value, _TENSOR):
        if name in ("0", "output"):
            return value
    else:
        inside = dict(_fields(value) or ())
        if part in inside:
            return inside[part]
    raise UserError(f"model.output: the result has no field {name!r}: its fields are {choices(_flatten(result), name)}")


_TENSOR = (torch.Tensor, fx.Proxy)
"""A proxy stands for a tensor while fx traces, and has whatever attribute it is asked for."""


def _fields(value: Any) -> list[tuple[str, Any]] | None:
    """The parts of a mapping, a tuple or list, or a dataclass, by name; None for anything else."""
    if isinstance(value, _TENSOR):
        return None
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None) or range(len(value))
        return [(str(name), item) for name, item in zip(names, value, strict=True)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(item.name, getattr(value, item.name, None)) for item in fields(value)]
    return None


def _flatten(result: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(result, _TENSOR):
        return {prefix or "output": cast(torch.Tensor, result)}
    named: dict[str, torch.Tensor] = {}
    for key, value in _fields(result) or ():  # None, flags and caches do not travel
        for name, tensor in _flatten(value, f"{prefix}.{key}" if prefix else key).items():
            if name in named:
                raise UserError(f"model.output: the model returns two tensors named {name!r}: give them other keys")
            named[name] = tensor
    return named
