"""Decodes an image file to pixels: any bit depth, upright, one picture per file."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import check_regular

__all__ = ["MAX_PIXELS", "decode_rgb", "read_rgb", "upright_rgb"]

MAX_PIXELS = 64 << 20
"""More is an error: a small file can unpack to an image that fills the memory."""
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its name says: Pillow hands others, such as EPS, to other programs."""
PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Modes that Pillow turns into RGB by itself; it drops transparency, as torchvision and transformers do."""
SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
INSTEAD = "scale and save it so, or give the model's input as an array (.npy)"
ORIENTATION, NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 274, 254, 258, 262, 339
WHITE_IS_ZERO = (0,)
UNSIGNED = {1, 4}
"""TIFF's sample formats of unsigned numbers, and of those that nothing is said of."""
SMALLER_OR_MASK = 0b101
"""TIFF's subfile types of a page that only goes with another."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation: what turns the stored picture the right way up."""


def read_rgb(file: Path) -> Image.Image:
    """The image as 8-bit RGB; 16-bit greys are scaled, white to white, and not cut off.

    Raises:
        UserError: the file is not a readable image, has too many pixels or pictures, or values that are not pixels.
    """
    check_regular(file, "an image", "leave it out")
    try:
        # by its name, Pillow would map a TIFF into memory, with rows as long as those of the turned picture
        with open(file, "rb") as opened:
            return decode_rgb(opened, str(file))
    except OSError as error:
        raise UserError(f"{file}: not a readable image: {error}") from None


def decode_rgb(opened: BinaryIO, where: str) -> Image.Image:
    """As read_rgb, of a file's bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(opened, formats=FORMATS) as image:
                return _rgb(image)
    except UnidentifiedImageError:
        raise UserError(f"{where}: not a readable image of the kinds {', '.join(FORMATS)}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds for a damaged file
        raise UserError(f"{where}: not a readable image: {error}") from None


def upright_rgb(image: Image.Image, where: str) -> Image.Image:
    """As read_rgb, of an image that an application holds."""
    try:
        return _rgb(image)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # it may have been opened, and not been read yet
        raise UserError(f"{where}: not a readable image: {error}") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Raises UserError without the file's name."""
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{image.width} x {image.height} pixels are too many (at most {MAX_PIXELS})")
    if not image.width or not image.height:
        raise UserError("not a readable image: it has no pixels")
    _check_pages(image)
    levels = _levels(image)
    inverted = _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO  # of 8 bits Pillow sees to it itself
    image.load()
    orientation = None
    with suppress(Exception):  # damaged EXIF: every viewer shows the picture all the same
        orientation = image.getexif().get(ORIENTATION)  # of a TIFF, Pillow has turned the picture and removed this
    if levels is None:
        whole = image.convert("RGB")
    else:
        values = np.asarray(image).astype(np.float32)
        grey = np.rint((levels - values if inverted else values) * np.float32(255 / levels))
        whole = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    return whole.transpose(TURNS[orientation]) if orientation in TURNS else whole


def _levels(image: Image.Image) -> int | None:
    """The value of white in an image of more than 8 bits a pixel; None where Pillow scales by itself."""
    signed = not set(_tag(image, SAMPLE_FORMAT)) <= UNSIGNED
    if image.mode in SIXTEEN and not signed:
        return (1 << (*_tag(image, BITS_PER_SAMPLE), 16)[0]) - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # both have 16 bits; PGM is scaled to them
        return (1 << 16) - 1
    if image.mode in PLAIN and not signed:
        return None
    kind = {"I": "32-bit or signed whole numbers", "F": "floats", "LAB": "CIE L*a*b* colours"}.get(image.mode)
    kind = "signed numbers" if signed and image.mode not in ("I", "F") else kind or f"of Pillow's mode {image.mode}"
    raise UserError(f"its pixels are {kind}: expected unsigned numbers of 8 or 16 bits, grey, RGB or CMYK: {INSTEAD}")


def _check_pages(image: Image.Image) -> None:
    """An item is one picture. MPO is a camera's JPEG, whose further pictures go with the first."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return
    if image.format == "TIFF":
        pages = _full_pages(image)
        if pages == [0]:
            return
        what = "several pages" if len(pages) > 1 else "a smaller picture first"
    else:
        what = "several frames, an animation"
    raise UserError(f"holds {what}, but an item is one picture: save the ones you need as files of their own")


def _full_pages(image: Image.Image) -> list[int]:
    """The numbers of pages that are pictures of their own; of two at most."""
    found = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        if not (*_tag(image, NEW_SUBFILE_TYPE), 0)[0] & SMALLER_OR_MASK:
            found.append(number)
        if len(found) > 1:
            break
    image.seek(0)
    return found


def _tag(image: Image.Image, number: int) -> tuple[int, ...]:
    """A TIFF's tag; empty where there is none."""
    value = getattr(image, "tag_v2", {}).get(number, ())
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
