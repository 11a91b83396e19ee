"""Images of every depth, orientation and mode: each gives the pixels that a person sees, or is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from edgecompile.contract.errors import UserError
from edgelaunch.inputs.pixels import read_rgb

DEPTH = np.array([[0, 257 * 10, 257 * 128], [65535, 257 * 200, 40000]], np.uint16)
GREY = [[0, 10, 128], [255, 200, 156]]
"""What DEPTH is in 8 bits."""
SEEN = np.zeros((4, 6, 3), np.uint8)
SEEN[0, 0], SEEN[0, 5], SEEN[3, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.swapaxes(0, 1),
    6: np.rot90,
    7: lambda seen: seen[::-1, ::-1].swapaxes(0, 1),
    8: lambda seen: np.rot90(seen, -1),
}
"""How a camera stores what it sees, by EXIF orientation."""


def grey(file: Path) -> list[list[int]]:
    pixels = np.asarray(read_rgb(file))
    np.testing.assert_array_equal(pixels, pixels[:, :, :1].repeat(3, axis=2))
    return pixels[:, :, 0].tolist()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "lzw.tif", "a.pgm"])
def test_sixteen_bits_are_scaled(tmp_path: Path, name: str, order: str) -> None:
    mode = {"<": "I;16", ">": "I;16B"}[order]
    image = Image.frombytes(mode, (3, 2), DEPTH.astype(f"{order}u2").tobytes())
    if mode == "I;16B" and not name.endswith("a.tif"):
        image = Image.fromarray(DEPTH)
    image.save(tmp_path / name, **({"compression": "tiff_lzw"} if name == "lzw.tif" else {}))
    assert grey(tmp_path / name) == GREY


def test_sixteen_bits_in_which_white_is_zero(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray(DEPTH).save(tmp_path / "a.tif", tiffinfo=tags)
    assert grey(tmp_path / "a.tif") == [[255, 245, 127], [0, 55, 99]]


def tiff(values: bytes, *, bits: int, sample_format: int, width: int, height: int) -> bytes:
    """A grey TIFF as no library here writes it."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height),
            (279, len(values)), (339, sample_format)]  # fmt: skip
    data = b"II*\0" + (8 + len(values)).to_bytes(4, "little") + values + len(tags).to_bytes(2, "little")
    for number, value in tags:
        kind = 4 if number in (273, 279) else 3
        data += number.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        data += value.to_bytes(4, "little")
    return data + bytes(4)


def test_twelve_bits_of_a_tiff(tmp_path: Path) -> None:
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10])  # 0, 2048, 4095, 16
    (tmp_path / "a.tif").write_bytes(tiff(packed, bits=12, sample_format=1, width=4, height=1))
    assert grey(tmp_path / "a.tif") == [[0, 128, 255, 1]]


def test_a_tiff_of_one_byte_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(bytes([0, 7, 255]), bits=8, sample_format=1, width=3, height=1))
    assert grey(tmp_path / "a.tif") == [[0, 7, 255]]


@pytest.mark.parametrize(
    ("bits", "sample_format", "what"),
    [
        (8, 2, "signed numbers"),
        (16, 2, "32-bit or signed whole numbers"),
        (32, 1, "32-bit or signed whole numbers"),
        (32, 2, "32-bit or signed whole numbers"),
        (32, 3, "floats"),
    ],
)
def test_numbers_that_are_no_pixels_are_refused(tmp_path: Path, bits: int, sample_format: int, what: str) -> None:
    data = tiff(bytes(4 * bits // 8), bits=bits, sample_format=sample_format, width=2, height=2)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(UserError, match=rf"a.tif: its pixels are {what}: expected unsigned .* as an array \(.npy\)"):
        read_rgb(tmp_path / "a.tif")


def test_lab_colours_are_refused(tmp_path: Path) -> None:
    profiles = [ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")]
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")  # type: ignore[arg-type]
    lab = ImageCms.applyTransform(Image.fromarray(SEEN), transform)
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a.tif: its pixels are CIE L\*a\*b\* colours"):
        read_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_exif_orientation_turns_the_picture(tmp_path: Path, suffix: str, orientation: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](SEEN)))
    exif = image.getexif()
    exif[274] = orientation
    exact = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    image.save(tmp_path / f"a.{suffix}", exif=exif, **exact)
    given = np.asarray(read_rgb(tmp_path / f"a.{suffix}")).astype(int)
    assert given.shape == SEEN.shape
    assert np.abs(given - SEEN).max() <= (140 if suffix == "jpg" else 0)
    assert given[0, 0].argmax() == 0
    assert given[0, 5].argmax() == 1
    assert given[3, 0].argmax() == 2


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_turns_sixteen_and_eight_grey_bits(tmp_path: Path, suffix: str, orientation: int) -> None:
    for name, seen in (("deep", DEPTH), ("flat", np.array(GREY, np.uint8))):
        image = Image.fromarray(np.ascontiguousarray(STORED[orientation](seen)))
        exif = image.getexif()
        exif[274] = orientation
        image.save(tmp_path / f"{name}.{suffix}", exif=exif)
        assert grey(tmp_path / f"{name}.{suffix}") == GREY


def test_damaged_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    Image.fromarray(SEEN).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "a.png")), SEEN)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_several_pictures_in_a_file_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(SEEN), Image.fromarray(255 - SEEN)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=f"a.{suffix}: holds several .*, but an item is one picture: save"):
        read_rgb(tmp_path / f"a.{suffix}")
    frames[0].save(tmp_path / f"b.{suffix}", save_all=True)
    assert read_rgb(tmp_path / f"b.{suffix}").size == (6, 4)


@pytest.mark.parametrize(("smaller", "refused"), [(1, False), (0, True)])
def test_a_smaller_page_beside_the_picture(tmp_path: Path, smaller: int, refused: bool) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    whole, thumbnail = Image.fromarray(SEEN), Image.fromarray(255 - SEEN[:2, :3])
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "a.tif"), True) as file:
        for number in range(2):
            (thumbnail if number == smaller else whole).save(
                file, format="TIFF", **({"tiffinfo": tags} if number == smaller else {})
            )
            file.newFrame()
    if refused:
        with pytest.raises(UserError, match=r"a.tif: holds a smaller picture first"):
            read_rgb(tmp_path / "a.tif")
    else:
        np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "a.tif")), SEEN)


def test_a_camera_s_second_picture_goes_with_the_first(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), (200, 0, 0)), Image.new("RGB", (6, 4), (0, 200, 0))]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert np.asarray(read_rgb(tmp_path / "a.jpg"))[0, 0].argmax() == 0


def test_colours_of_every_mode_that_has_some(tmp_path: Path) -> None:
    colour = (180, 60, 30)
    for mode, suffix in (("RGBA", "png"), ("P", "png"), ("P", "gif"), ("RGBA", "tif"), ("CMYK", "tif"),
                         ("YCbCr", "tif"), ("RGBA", "webp")):  # fmt: skip
        image = Image.new("RGB", (6, 4), colour)
        image = image.quantize(4) if mode == "P" else image.convert(mode)
        image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
        assert np.abs(np.asarray(read_rgb(tmp_path / f"a.{suffix}")).astype(int) - colour).max() <= 2, (mode, suffix)
    clear = Image.new("LA", (6, 4), (77, 0))  # transparency is dropped, as torchvision and transformers drop it
    clear.save(tmp_path / "la.png")
    assert set(np.asarray(read_rgb(tmp_path / "la.png")).ravel().tolist()) == {77}
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, *colour])
    palette.save(tmp_path / "p.png", transparency=b"\xff\x00")
    assert np.asarray(read_rgb(tmp_path / "p.png"))[0, 0].tolist() == list(colour)
    bits = Image.new("1", (6, 4), 1)
    bits.save(tmp_path / "1.tif")
    assert set(np.asarray(read_rgb(tmp_path / "1.tif")).ravel().tolist()) == {255}


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif", "ppm", "pgm"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 70, 3), dtype=np.uint8)
    whole = io.BytesIO()
    image = Image.fromarray(pixels).convert("L" if suffix == "pgm" else "RGB")
    image.save(whole, format={"jpg": "JPEG", "tif": "TIFF", "ppm": "PPM", "pgm": "PPM"}.get(suffix, suffix))
    (tmp_path / f"a.{suffix}").write_bytes(whole.getvalue()[: len(whole.getvalue()) * 7 // 10])
    with pytest.raises(UserError, match=f"a.{suffix}: not a readable image"):
        read_rgb(tmp_path / f"a.{suffix}")


def test_other_files_behind_an_image_s_name(tmp_path: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"  # Pillow runs a program for it
    for content in (eps, b"P5 0 0 255\n", b""):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(UserError, match=r"a.png: not a readable image"):
            read_rgb(tmp_path / "a.png")
