"""The native kernels of a language model's step, and when they are to compute: for one thread."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

__all__ = ["native", "native_runs", "rows_of"]

native: Any = None
with contextlib.suppress(ImportError):  # of the source folder by itself nothing was built: torch computes the same
    from edgecompile import _native_text as native


def native_runs(*tensors: torch.Tensor) -> bool:
    """Whether native code is to compute on these; with several threads torch's operators share the work."""
    if native is None or torch.get_num_threads() != 1:
        return False
    for tensor in tensors:  # noqa: SIM110
        if tensor.dtype is not torch.float32 or not tensor.is_cpu:
            return False
    return True


def rows_of(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The same with its rows at one distance, and how far apart: parts of a joined product are not contiguous."""
    size = x.shape[-1]
    if x.is_contiguous():
        return x, size
    if x.stride(-1) == 1 and x.dim() == 3 and (x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1)):
        return x, x.stride(1)
    return x.contiguous(), size
