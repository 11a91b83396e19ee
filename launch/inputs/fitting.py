"""Checks that an array matches a model input's shape and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import TensorSpec
from edgelaunch.common.varying import fits, shape_words

__all__ = ["LABEL_KEY", "convertible", "fit", "fit_json"]

LABEL_KEY = "label"
"""An array of this name in a .npz or .safetensors file, where no input is called so, holds class numbers."""


def fit(
    value: Any, spec: TensorSpec, where: str, ranges: Mapping[str, tuple[int, int]] | None = None, *, own: bool = False
) -> NDArray[Any]:  # fmt: skip
    """One item's array in the input's dtype, without batch dimension; a bfloat16 input takes float32.

    Floats become floats of the input's width, whole numbers become whole numbers, where they fit; truth values count as
    whole numbers. Nothing else is converted: uint8 pixels for a float input are more likely a mistake.

    Args:
        ranges: of Varying, where the plan has dimensions that vary.
        own: nobody else changes the array: it is copied only where it must be another to be computed with.

    Raises:
        UserError: the shape differs, the dtype is of another kind, or a value does not fit.
    """
    wanted = f"{spec.dtype} {shape_words(spec, ranges or {})}"
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # uneven lists; torch's tensors that numpy does not take
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: {spec.name} is not an array ({reason}), the model takes {wanted}") from None
    if not fits(array.shape, spec, ranges or {}) or not convertible(array.dtype, spec):
        raise UserError(f"{where}: {spec.name} is {array.dtype} {array.shape}, the model takes {wanted}")
    target = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
    if array.dtype != target and target.kind in "iub" and array.size:
        low, high = (0, 1) if target.kind == "b" else (int(np.iinfo(target).min), int(np.iinfo(target).max))
        for extreme in (int(array.min()), int(array.max())):
            if not low <= extreme <= high:
                raise UserError(f"{where}: {spec.name} holds {extreme}, the model takes {wanted}: {low} to {high}")
    if own and array.dtype == target:
        return np.require(array, requirements=("C", "A", "W"))
    with np.errstate(over="ignore"):
        converted = np.array(array, dtype=target, order="C")
    if target.kind == "f" and target.itemsize < array.itemsize:
        lost = np.isinf(converted) & ~np.isinf(array)
        if lost.any():
            most = np.finfo(target).max
            raise UserError(
                f"{where}: {spec.name} holds {array[lost][0]:g}, the model takes {wanted}: at most {most:g}"
            )
    return converted


def fit_json(value: Any, spec: TensorSpec, where: str, ranges: Mapping[str, tuple[int, int]]) -> NDArray[Any]:
    """As fit, of nested lists: JSON writes 1.0 as 1 where it likes, so whole numbers do for floats."""
    wanted = f"{spec.dtype} {shape_words(spec, ranges)}"
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise UserError(
            f"{where}: {spec.name} is not an array, its lists differ in length, the model takes {wanted}"
        ) from None
    problem = _json_problem(array, spec, ranges)
    if problem is not None:
        raise UserError(f"{where}: {spec.name} {problem}, the model takes {wanted}")
    if "float" in spec.dtype and array.dtype.kind in "iu":
        array = array.astype(np.float64)
    return fit(array, spec, where, ranges)


def _json_problem(array: NDArray[Any], spec: TensorSpec, ranges: Mapping[str, tuple[int, int]]) -> str | None:
    """In JSON's words; the rest is the array's."""
    kind, floats = array.dtype.kind, "float" in spec.dtype
    if kind == "O":
        words = {type(None): "null", str: "text", dict: "an object", list: "lists of unlike depth"}
        odd = next((words[type(value)] for value in array.flat if type(value) in words), None)
        return f"holds {odd} where numbers are expected" if odd is not None else "holds a number that is too large"
    if kind == "U":
        return "holds text where numbers are expected"
    if not fits(array.shape, spec, ranges):
        if array.ndim == 1 and len(spec.shape) == 2 and not any(spec.dims[1:]):
            return f"holds {array.size} numbers where {spec.shape[1]} are expected"
        return f"is of shape {array.shape}"
    if kind == "b" and floats:
        return "holds true or false where numbers are expected"
    return "holds numbers with a decimal point" if kind == "f" and not floats else None


def convertible(dtype: np.dtype[Any], spec: TensorSpec) -> bool:
    wanted = "f" if "float" in spec.dtype else "iub"
    return dtype.kind in wanted
