"""Snapshots a module's attributes, buffers and containers, to detect state that a run changes."""

from __future__ import annotations

import collections
from typing import Any

import torch
from torch import nn

__all__ = ["ModuleState"]

_TORCH_OWN = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"})
_MOST_BYTES = 64 << 20
"""A larger tensor is not copied: that it was written can be told, but not undone."""


class ModuleState:
    """A snapshot of every module's attributes and buffers, shallow but for tensors and containers."""

    def __init__(self, root: nn.Module) -> None:
        self._attributes = [(path, module, dict(vars(module))) for path, module in root.named_modules()]
        self._buffers = [(module, dict(module._buffers)) for _, module, _ in self._attributes]
        self._tensors: dict[int, tuple[str, torch.Tensor, int, torch.Tensor | None]] = {}
        self._containers: dict[int, tuple[str, Any, Any]] = {}
        self._hooks = [
            (value, value.copy())
            for _, _, values in self._attributes
            for name, value in values.items()
            if name.endswith("_hooks") and isinstance(value, dict)
        ]
        """Some models install them at their first call: no change of state, but it is undone with the rest."""
        for path, module, values in self._attributes:
            for name, value in {**values, **module._buffers}.items():
                self._remember(f"{path}.{name}", value)
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self._tensors[id(parameter)] = (f"{path}.{name}", parameter, parameter._version, None)

    def _remember(self, name: str, value: Any, depth: int = 3) -> None:
        if isinstance(value, torch.Tensor) and not value.is_inference() and id(value) not in self._tensors:
            small = value.numel() * value.element_size() <= _MOST_BYTES
            copy = value.detach().clone() if small and not isinstance(value, nn.Parameter) else None
            self._tensors[id(value)] = (name, value, value._version, copy)
        elif isinstance(value, (nn.Module, type)) or depth == 0:
            return
        elif isinstance(value, (list, dict, set, collections.deque)) and id(value) not in self._containers:
            if name.rpartition(".")[2] in _TORCH_OWN or "hooks" in name.rpartition(".")[2]:
                return
            self._containers[id(value)] = (name, value, value.copy())
            for inner in list(value.values()) if isinstance(value, dict) else list(value):
                self._remember(name, inner, depth - 1)
        elif hasattr(value, "__dict__") and not callable(value) and id(value) not in self._containers:
            self._containers[id(value)] = (name, vars(value), dict(vars(value)))
            for inner in list(vars(value).values()):
                self._remember(name, inner, depth - 1)

    def changes(self) -> list[str]:
        """The names of what was written since the snapshot, such as `encoder.count`."""
        changed: list[str] = []
        for (path, module, before), (_, buffers) in zip(self._attributes, self._buffers, strict=True):
            for held, kept in ((vars(module), before), (module._buffers, buffers)):
                for name in {**kept, **held}:
                    if name not in _TORCH_OWN and not _same(held.get(name, kept), kept.get(name, held)):
                        changed.append(f"{path}.{name}")
        changed += [name for name, value, version, _ in self._tensors.values() if value._version != version]
        changed += [name for name, value, copy in self._containers.values() if not _equal(value, copy)]
        return sorted({_plain(name) for name in changed})

    def restore(self) -> bool:
        """Puts everything back; False where a tensor was written that was too large to keep."""
        for (_, module, before), (_, buffers) in zip(self._attributes, self._buffers, strict=True):
            for name in set(vars(module)) - set(before):
                del vars(module)[name]
            vars(module).update({name: value for name, value in before.items() if name not in _TORCH_OWN})
            module._buffers.clear()
            module._buffers.update(buffers)
        for _, value, copy in self._containers.values():
            if not _equal(value, copy):
                _refill(value, copy)
        for hooks, before in self._hooks:
            _refill(hooks, before)
        whole = True
        for key, (name, value, version, kept) in list(self._tensors.items()):
            if value._version == version:
                continue
            if kept is None:
                whole = False
            else:
                with torch.no_grad():
                    value.copy_(kept)
                self._tensors[key] = (name, value, value._version, kept)
        return whole


def _plain(name: str) -> str:
    return name.lstrip(".")


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    simple = (bool, int, float, complex, str, bytes, type(None))
    return isinstance(one, simple) and type(one) is type(other) and one == other


def _equal(one: Any, other: Any) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(key in other and _same(value, other[key]) for key, value in one.items())
    if isinstance(one, set):
        return bool(one == other)
    return all(_same(left, right) for left, right in zip(one, other, strict=True))


def _refill(container: Any, contents: Any) -> None:
    container.clear()
    if isinstance(container, (dict, set)):
        container.update(contents)
    else:
        container.extend(contents)
