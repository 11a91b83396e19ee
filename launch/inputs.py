"""Turns `--input` into a stream of items: arrays, sentences or images, read as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.plan import Plan, TensorSpec, UserError, check_regular
from edgelaunch.bad_items import BadItems
from edgelaunch.items import STDIN, Entry, Item, Source
from edgelaunch.labels import class_label

__all__ = ["LABEL_KEY", "fit", "open_source"]

TEXT_SUFFIXES = (".txt", ".jsonl", ".tsv")
ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors")
LABEL_KEY = "label"
"""An array of this name in a .npz or .safetensors file, where no input is called so, holds class numbers."""


def open_source(plan: Plan, folder: Path, path: Path, limit: int | None, bad: BadItems | None = None) -> Source:
    """Opens `--input PATH` and checks what can be checked before the run; `-` is standard input.

    Args:
        folder: the plan's, where the tokenizer lies.
        limit: at most so many items; None for all.
        bad: what becomes of an image or a line that cannot be read; None: it is an error. A damaged file of arrays
            always is.

    Raises:
        UserError: the path is missing, of a kind that this model does not take, empty, or has other names, shapes or
            dtypes than the model's inputs.
    """
    if str(path) != STDIN:
        if not path.exists():
            raise UserError(f"{path}: no such input")
        check_regular(path, "an input", f"--input {STDIN} reads standard input as it comes")
    source = _opener(path)(plan, folder, path, bad or BadItems(plan, gap=False))
    if source.num_items == 0:
        raise UserError(f"{path}: holds no items")
    if limit is None:
        return source
    known = limit if source.num_items is None else min(limit, source.num_items)
    return Source(items=islice(source.items, limit), num_items=known, what=source.what, labelled=source.labelled)


def _opener(path: Path) -> Callable[[Plan, Path, Path, BadItems], Source]:
    from edgelaunch import images, stdin, text

    if str(path) == STDIN:
        return lambda plan, folder, path, bad: stdin.open_stdin(plan, folder, bad)
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in images.SUFFIXES:
        return images.open_images
    if suffix in TEXT_SUFFIXES:
        return text.open_text
    if suffix in ARRAY_SUFFIXES:
        return _open_arrays
    kinds = ", ".join((*ARRAY_SUFFIXES, *TEXT_SUFFIXES))
    raise UserError(f"{path}: of an unknown kind: an input is a folder of images, an image, or a file {kinds}")


# --- arrays --------------------------------------------------------------------------------------------------------


def _open_arrays(plan: Plan, folder: Path, path: Path, bad: BadItems) -> Source:
    readers = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}
    try:
        arrays = readers[path.suffix.lower()](plan, path)
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and safetensors raise a dozen kinds for a damaged file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as {path.suffix.lower()}: {first}") from None
    names = [spec.name for spec in plan.inputs]
    labels = arrays.pop(LABEL_KEY, None) if LABEL_KEY not in names else None
    if set(arrays) != set(names):
        raise UserError(
            f"{path}: holds the arrays {', '.join(sorted(arrays)) or 'none'}, the model takes {', '.join(names)}"
        )
    counts = {name: _check_array(array, plan, name, path) for name, array in arrays.items()}
    count = min(counts.values())
    if len(set(counts.values())) > 1:
        raise UserError(f"{path}: the arrays differ in their number of items: {counts}")
    if labels is not None and (labels.ndim != 1 or len(labels) != count or labels.dtype.kind not in "iu"):
        raise UserError(f"{path}: {LABEL_KEY} is {labels.dtype} {labels.shape}, it must be whole numbers ({count},)")
    if labels is not None and count:
        for place in (int(labels.argmin()), int(labels.argmax())):
            class_label(plan, labels[place], f"{path}, item {place}")
    what = f"{count} items of {path.name}"
    return Source(items=_array_items(plan, path, arrays, labels, count), num_items=count, what=what,
                  labelled=labels is not None)  # fmt: skip


def _read_npy(plan: Plan, path: Path) -> dict[str, Any]:
    if len(plan.inputs) > 1:
        names = ", ".join(spec.name for spec in plan.inputs)
        raise UserError(f"{path}: a .npy holds one array and the model takes {names}: give a .npz with arrays so named")
    return {plan.inputs[0].name: np.load(path, mmap_mode="r", allow_pickle=False)}


def _read_npz(plan: Plan, path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_safetensors(plan: Plan, path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path)


def _check_array(array: Any, plan: Plan, name: str, path: Path) -> int:
    """The number of items of one input's array."""
    spec = next(spec for spec in plan.inputs if spec.name == name)
    wanted = f"{spec.dtype} (items, {', '.join(str(extent) for extent in spec.shape[1:])})"
    given = f"{array.dtype} {tuple(array.shape)}"
    if array.ndim == 0 or tuple(array.shape[1:]) != spec.shape[1:]:
        raise UserError(f"{path}: {name} is {given}, the model takes {wanted}")
    pixels = plan.data.kind == "image" and spec.dtype == "uint8"  # other whole numbers may be scaled in another way
    if not _convertible(array.dtype, spec) or (pixels and array.dtype != np.uint8):
        raise UserError(f"{path}: {name} is {given}, the model takes {wanted}: convert it first")
    return len(array)


def _array_items(plan: Plan, path: Path, arrays: dict[str, Any], labels: Any, count: int) -> Iterator[Item]:
    for index in range(count):
        where = f"{path}, item {index}"
        values = {spec.name: fit(arrays[spec.name][index], spec, where) for spec in plan.inputs}
        label = None if labels is None else class_label(plan, labels[index], where)
        yield Item(Entry(index=index, label=label), values)


# --- one array for one input ---------------------------------------------------------------------------------------


def fit(value: Any, spec: TensorSpec, where: str) -> NDArray[Any]:
    """One item's array in the input's dtype, without batch dimension; a bfloat16 input takes float32.

    Floats become floats of the input's width, whole numbers become whole numbers, where they fit; truth values count as
    whole numbers. Nothing else is converted: uint8 pixels for a float input are more likely a mistake.

    Raises:
        UserError: the shape differs, the dtype is of another kind, or a value does not fit.
    """
    wanted = f"{spec.dtype} {spec.shape[1:]}"
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # uneven lists; torch's tensors that numpy does not take
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: {spec.name} is no array ({reason}), the model takes {wanted}") from None
    if array.shape != spec.shape[1:] or not _convertible(array.dtype, spec):
        raise UserError(f"{where}: {spec.name} is {array.dtype} {array.shape}, the model takes {wanted}")
    target = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
    if array.dtype != target and target.kind in "iub" and array.size:
        low, high = (0, 1) if target.kind == "b" else (int(np.iinfo(target).min), int(np.iinfo(target).max))
        for extreme in (int(array.min()), int(array.max())):
            if not low <= extreme <= high:
                raise UserError(f"{where}: {spec.name} holds {extreme}, the model takes {wanted}: {low} to {high}")
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


def _convertible(dtype: np.dtype[Any], spec: TensorSpec) -> bool:
    wanted = "f" if "float" in spec.dtype else "iub"
    return dtype.kind in wanted
