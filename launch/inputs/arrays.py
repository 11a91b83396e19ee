"""Reads arrays as input: .npy, .npz and .safetensors files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgelaunch.common.items import Entry, Item, Source
from edgelaunch.common.varying import Varying, fits, shape_words
from edgelaunch.inputs.bad_items import BadItems
from edgelaunch.inputs.fitting import LABEL_KEY, convertible, fit
from edgelaunch.inputs.labels import class_label

__all__ = ["open_arrays"]


def open_arrays(plan: ModelFacts, folder: Path, path: Path, bad: BadItems) -> Source:
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
        raise UserError(f"{path}: {LABEL_KEY} is {labels.dtype} {labels.shape}, expected whole numbers ({count},)")
    if labels is not None and count:
        for place in (int(labels.argmin()), int(labels.argmax())):
            class_label(plan, labels[place], f"{path}, item {place}")
    what = f"{count} items of {path.name}"
    again = partial(_array_items, plan, path, arrays, labels, count)
    return Source(items=again(), again=again, num_items=count, what=what,
                  labelled=labels is not None)  # fmt: skip


def _read_npy(plan: ModelFacts, path: Path) -> dict[str, Any]:
    if len(plan.inputs) > 1:
        names = ", ".join(spec.name for spec in plan.inputs)
        raise UserError(f"{path}: a .npy holds one array and the model takes {names}: give a .npz with arrays so named")
    return {plan.inputs[0].name: np.load(path, mmap_mode="r", allow_pickle=False)}


def _read_npz(plan: ModelFacts, path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_safetensors(plan: ModelFacts, path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path)


def _check_array(array: Any, plan: ModelFacts, name: str, path: Path) -> int:
    """The number of items of one input's array."""
    spec = next(spec for spec in plan.inputs if spec.name == name)
    ranges = Varying(plan).ranges
    wanted = f"{spec.dtype} (items, {shape_words(spec, ranges)[1:].replace(',)', ')')}"
    given = f"{array.dtype} {tuple(array.shape)}"
    if array.ndim == 0 or not fits(array.shape[1:], spec, ranges):
        raise UserError(f"{path}: {name} is {given}, the model takes {wanted}")
    pixels = plan.data.kind == "image" and spec.dtype == "uint8"  # other whole numbers may be scaled in another way
    if not convertible(array.dtype, spec) or (pixels and array.dtype != np.uint8):
        raise UserError(f"{path}: {name} is {given}, the model takes {wanted}: convert it first")
    return len(array)


def _array_items(plan: ModelFacts, path: Path, arrays: dict[str, Any], labels: Any, count: int) -> Iterator[Item]:
    varying = Varying(plan)
    for index in range(count):
        where = f"{path}, item {index}"
        values = {spec.name: fit(arrays[spec.name][index], spec, where, varying.ranges) for spec in plan.inputs}
        varying.check(values, where)
        label = None if labels is None else class_label(plan, labels[index], where)
        yield Item(Entry(index=index, label=label), values)
