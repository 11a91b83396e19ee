"""Images as input: a file, or a folder whose subfolders may be classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgecompile.plan import ImageSpec, Plan, UserError
from edgelaunch.bad_items import BadItems
from edgelaunch.inputs import fit
from edgelaunch.items import Entry, Item, Source

__all__ = ["SUFFIXES", "open_images", "prepare", "read_image"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 64 << 20
"""More is an error: a small file can unpack to an image that fills the memory."""
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def open_images(plan: Plan, folder: Path, path: Path, bad: BadItems) -> Source:
    """An image file, or all images below a folder in the order of their paths.

    Raises:
        UserError: the model takes no images, or the folder has none.
    """
    spec = plan.data.image
    if plan.data.kind != "image" or spec is None or len(plan.inputs) != 1:
        raise UserError(f"{path}: images, and {plan.model.name} takes {plan.data.kind} input: give arrays instead")
    if spec.interpolation not in INTERPOLATIONS:
        raise UserError(f"data.image.interpolation {spec.interpolation!r} is unknown: {', '.join(INTERPOLATIONS)}")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        root = path
    else:
        files, root = [path], path.parent
    if not files:
        raise UserError(f"{path}: holds no images ({', '.join(SUFFIXES)})")
    labels = _labels(plan, [file.relative_to(root) for file in files])
    what = f"{len(files)} image{'s' if len(files) > 1 else ''} of {path.name or path}"
    items = _items(plan, root, files, labels, bad)
    return Source(items=items, num_items=len(files), what=what, labelled=None not in labels)


def _items(plan: Plan, root: Path, files: list[Path], labels: list[int | None], bad: BadItems) -> Iterator[Item]:
    (tensor,) = plan.inputs
    for index, (file, label) in enumerate(zip(files, labels, strict=True)):
        entry = Entry(index=index, name=file.relative_to(root).as_posix(), label=label)
        yield bad.item(entry, lambda file=file: {tensor.name: read_image(plan, file)})  # type: ignore[misc]


def read_image(plan: Plan, file: Path) -> NDArray[Any]:
    """An image as this plan's input takes it: pixels where that is uint8, as its first shard normalises them.

    Raises:
        UserError: the file is no readable image, or has too many pixels.
    """
    spec, (tensor,) = plan.data.image, plan.inputs
    assert spec is not None
    return fit(prepare(file, spec, normalise=tensor.dtype != "uint8"), tensor, str(file))


def prepare(file: Path, spec: ImageSpec, *, normalise: bool = True) -> NDArray[Any]:
    """Reads an image, resizes its shorter side, crops the centre: (3, height, width).

    Returns:
        float32, normalised; without `normalise` uint8, as the image has them.

    Raises:
        UserError: the file is no readable image, or has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{file}: {image.width} x {image.height} pixels are too many (at most {MAX_PIXELS})"
                    )
                cropped = _crop(image.convert("RGB"), spec)
    except UnidentifiedImageError:
        raise UserError(f"{file}: not a readable image") from None
    except UserError as error:
        raise error if str(file) in str(error) else UserError(f"{file}: {error}") from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds for a damaged file
        raise UserError(f"{file}: not a readable image: {error}") from None
    if not normalise:
        return np.ascontiguousarray(np.asarray(cropped, dtype=np.uint8).transpose(2, 0, 1))
    pixels = np.asarray(cropped, dtype=np.float32) / np.float32(255)
    normalised = (pixels - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _crop(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """As torchvision and transformers do it, whose models these are: the longer side is rounded down."""
    height, width = spec.size
    short = min(image.size)
    resized = (max(width, spec.resize * image.width // short), max(height, spec.resize * image.height // short))
    if resized[0] * resized[1] > MAX_PIXELS:
        raise UserError(f"an aspect ratio of {image.width} to {image.height} is too extreme")
    left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
    whole = image.resize(resized, INTERPOLATIONS[spec.interpolation])
    return whole.crop((left, top, left + width, top + height))


def _labels(plan: Plan, files: list[Path]) -> list[int | None]:
    """Each image's class number from its folder's name: a label of the plan, a number, or the place among folders."""
    names = [file.parts[0] if len(file.parts) > 1 else None for file in files]
    classes = sorted({name for name in names if name is not None})
    known = {_simple(part): number for number, label in reversed(list(enumerate(plan.data.labels)))
             for part in (*reversed(label.split(",")), label)}  # fmt: skip
    if all(_simple(name) in known for name in classes):
        numbers = {name: known[_simple(name)] for name in classes}
    elif all(name.isdecimal() for name in classes):
        numbers = {name: int(name) for name in classes}
    else:
        numbers = {name: number for number, name in enumerate(classes)}
    return [None if name is None else numbers[name] for name in names]


def _simple(label: str) -> str:
    return label.strip().lower().replace("_", " ").replace("-", " ")
