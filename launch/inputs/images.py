"""Reads images as input: one file, or a folder whose subfolders may be classes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgecompile.contract.plan import ImageSpec
from edgelaunch.common.items import Entry, Item, Source
from edgelaunch.inputs.bad_items import BadItems
from edgelaunch.inputs.fitting import fit
from edgelaunch.inputs.folders import SUFFIXES, class_numbers, find_images
from edgelaunch.inputs.pixels import MAX_PIXELS, read_rgb

__all__ = ["SUFFIXES", "check_takes_images", "fitted", "open_images", "prepare", "prepared", "read_image"]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def open_images(plan: ModelFacts, folder: Path, path: Path, bad: BadItems) -> Source:
    """An image file, or all images below a folder in the order of their paths.

    Raises:
        UserError: the model takes no images, or the folder has none.
    """
    check_takes_images(plan, f"{path}: holds images")
    if path.is_dir():
        found = find_images(path)
        files, root = found.files, path
        for note in found.notes:
            bad.note(f"{path}: {note}")
    else:
        files, root = [path], path.parent
    if not files:
        raise UserError(f"{path}: holds no images ({', '.join(SUFFIXES)})")
    labels = _labels(plan, path, [file.relative_to(root) for file in files], bad)
    what = f"{len(files)} image{'s' if len(files) > 1 else ''} of {path.name or path}"
    again = partial(_items, plan, root, files, labels, bad)
    return Source(items=again(), again=again, num_items=len(files), what=what, labelled=None not in labels)


def check_takes_images(plan: ModelFacts, what: str) -> None:
    """Raises UserError where it does not, or not in a way that is known. `what`: was given."""
    spec = plan.data.image
    if plan.data.kind != "image" or spec is None or len(plan.inputs) != 1:
        raise UserError(f"{what}, but {plan.model.name} takes {plan.data.kind} input: give arrays instead")
    if spec.interpolation not in INTERPOLATIONS:
        raise UserError(f"data.image.interpolation {spec.interpolation!r} is unknown: {', '.join(INTERPOLATIONS)}")


def _items(plan: ModelFacts, root: Path, files: list[Path], labels: list[int | None], bad: BadItems) -> Iterator[Item]:
    (tensor,) = plan.inputs
    for index, (file, label) in enumerate(zip(files, labels, strict=True)):
        entry = Entry(index=index, name=file.relative_to(root).as_posix(), label=label)
        yield bad.item(entry, lambda file=file: {tensor.name: read_image(plan, file)})  # type: ignore[misc]


def read_image(plan: ModelFacts, file: Path) -> NDArray[Any]:
    """An image as this plan's input takes it: pixels where that is uint8, as its first shard normalises them.

    Raises:
        UserError: as read_rgb.
    """
    return fitted(plan, read_rgb(file), str(file))


def fitted(plan: ModelFacts, image: Image.Image, where: str) -> NDArray[Any]:
    """As read_image, of an 8-bit RGB image. Raises UserError where its sides differ too much."""
    spec, (tensor,) = plan.data.image, plan.inputs
    assert spec is not None
    return fit(prepared(image, spec, where, normalise=tensor.dtype != "uint8"), tensor, where)


def prepare(file: Path, spec: ImageSpec) -> NDArray[Any]:
    """A file's image, as `prepared`. Raises UserError as read_rgb."""
    return prepared(read_rgb(file), spec, str(file))


def prepared(image: Image.Image, spec: ImageSpec, where: str, *, normalise: bool = True) -> NDArray[Any]:
    """Resizes an RGB image's shorter side, crops the centre: (3, height, width).

    Returns:
        float32, normalised; without `normalise` uint8, as the image has them.

    Raises:
        UserError: the sides differ too much.
    """
    cropped = _crop(image, spec, where)
    if not normalise:
        return np.ascontiguousarray(np.asarray(cropped, dtype=np.uint8).transpose(2, 0, 1))
    pixels = np.asarray(cropped, dtype=np.float32) / np.float32(255)
    normalised = (pixels - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _crop(image: Image.Image, spec: ImageSpec, where: str) -> Image.Image:
    """As torchvision and transformers do it, whose models these are: the longer side is rounded down."""
    height, width = spec.size
    short = min(image.size)
    resized = (max(width, spec.resize * image.width // short), max(height, spec.resize * image.height // short))
    if resized[0] * resized[1] > MAX_PIXELS:
        raise UserError(f"an aspect ratio of {image.width} to {image.height} is too extreme", key=where)
    left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
    whole = image.resize(resized, INTERPOLATIONS[spec.interpolation])
    return whole.crop((left, top, left + width, top + height))


def _labels(plan: ModelFacts, path: Path, files: list[Path], bad: BadItems) -> list[int | None]:
    """Each image's class number, from the name of its folder."""
    names = [file.parts[0] if len(file.parts) > 1 else None for file in files]
    classes = class_numbers(plan, sorted({name for name in names if name is not None}), path)
    if classes.note is not None:
        bad.note(f"{path}: {classes.note}")
    return [None if name is None else classes.numbers.get(name) for name in names]
