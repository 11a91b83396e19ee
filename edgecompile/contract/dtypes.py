"""The dtypes that tensors may have between stages, and their sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DTYPE_BYTES"]

DTYPE_BYTES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
