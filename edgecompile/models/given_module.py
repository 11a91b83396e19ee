"""Copies a module that a program has in hand, so that the program's own stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from edgecompile.contract.errors import UserError
from edgecompile.models.mapped_memory import MappedMemory

__all__ = ["copy_of"]


def copy_of(module: nn.Module, memory: MappedMemory) -> nn.Module:
    """The module again with weights of its own, on the CPU, the large ones in `memory`.

    Raises:
        UserError: it holds what cannot be copied, such as an open file.
    """
    copies: dict[int, Any] = {}
    with torch.no_grad():
        for part in module.modules():
            named = (*part._parameters.values(), *part._buffers.values(), *vars(part).values())
            for value in named:
                if isinstance(value, torch.Tensor) and id(value) not in copies and _is_plain(value):
                    copies[id(value)] = _copied(value, memory)
        try:
            return copy.deepcopy(module, copies)
        except Exception as error:  # whatever the module's parts raise
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"module: {type(module).__name__} cannot be copied: {type(error).__name__}: {reason}",
                fix="let it hold no files, locks or generators, or name the function that builds it: "
                "edgecompile.compile('custom', inputs, **{'model.build._target_': 'mypackage.build'})",
            ) from error


def _is_plain(value: torch.Tensor) -> bool:
    """Others are copied as they are, and refused later with the reason."""
    strided = value.layout is torch.strided and not value.is_quantized and not value.is_nested
    return type(value) in (torch.Tensor, nn.Parameter) and strided and not is_lazy(value) and not value.is_meta


def _copied(value: torch.Tensor, memory: MappedMemory) -> torch.Tensor:
    if value.is_contiguous():
        copied = memory.empty(value.shape, dtype=value.dtype)
        copied.copy_(value.detach())
    else:
        copied = value.detach().to("cpu", copy=True)
    return nn.Parameter(copied, requires_grad=False) if isinstance(value, nn.Parameter) else copied
