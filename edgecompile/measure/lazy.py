"""Builds a model without allocating its weights, where only their shapes are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["WithoutWeights"]

_RANDOM = frozenset({"aten::uniform_", "aten::normal_", "aten::random_", "aten::exponential_"})
_ON_RANDOM = frozenset({"aten::erfinv_", "aten::mul_", "aten::add_", "aten::sub_", "aten::div_", "aten::clamp_"})
"""What initialisers do to the numbers that they drew."""


class WithoutWeights(TorchDispatchMode):
    """While it is active, filling a tensor with random numbers does nothing.

    A system gives memory to a tensor where it is first written, so a weight that is never filled takes none. All other
    values (buffers, tables of positions, zeros and ones) are computed as ever.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._unfilled: dict[int, torch.UntypedStorage] = {}  # kept, so that no address is used again

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name in _RANDOM or (name in _ON_RANDOM and args[0].untyped_storage().data_ptr() in self._unfilled):
            storage = args[0].untyped_storage()
            self._unfilled[storage.data_ptr()] = storage
            return args[0]
        return func(*args, **(kwargs or {}))
