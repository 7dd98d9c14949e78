"""Reading images: modes, orientation and damage."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from safe_train.data.image import load_image
from safe_train.errors import InputError

EXIF_ORIENTATION = 0x0112


def picture():
    """4 x 2 pixels, all different."""
    return Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10, mode=None)


def error_of(path):
    with pytest.raises(InputError) as caught:
        load_image(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: expected ")
    return str(caught.value)


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_pixels_are_kept(tmp_path):
    path = tmp_path / "a.png"
    picture().save(path)
    image = load_image(path)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda pixels: pixels),
        (2, lambda pixels: pixels[:, ::-1]),
        (3, lambda pixels: pixels[::-1, ::-1]),
        (4, lambda pixels: pixels[::-1]),
        (5, lambda pixels: pixels.swapaxes(0, 1)),
        (6, lambda pixels: np.rot90(pixels, -1)),
        (7, lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda pixels: np.rot90(pixels, 1)),
    ],
)
def test_the_exif_orientation_is_applied(tmp_path, orientation, upright):
    """Orientations as the EXIF 2.3 specification defines them (tag 0x0112)."""
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    picture().save(path, exif=exif)
    np.testing.assert_array_equal(np.asarray(load_image(path)), upright(np.asarray(picture())))


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 0), (77, 77, 77)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
    ],
)
def test_every_8_bit_mode_becomes_rgb(tmp_path, mode, color, expected):
    path = tmp_path / "a.png"
    Image.new(mode, (2, 2), color).save(path)
    image = load_image(path)
    assert (image.mode, image.getpixel((1, 1))) == ("RGB", expected)


def test_a_palette_with_transparency(tmp_path):
    path = tmp_path / "a.png"
    image = Image.new("P", (2, 2), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    image.save(path, transparency=b"\xff\x00")
    assert load_image(path).getpixel((0, 0)) == (10, 20, 30)


def test_16_bits_a_channel_are_refused_rather_than_clipped(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((2, 2), 40_000, dtype=np.uint16)).save(path)
    assert "expected at most 8 bits a channel, got Pillow mode I;16" in error_of(path)


def test_a_missing_file(tmp_path):
    assert "expected an image, got no such file" in error_of(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "signature"])
def test_files_that_are_no_image(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert "expected a readable image" in error_of(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp"])
def test_truncated_images(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    load_image(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    error_of(path)


def test_a_png_with_a_broken_checksum(tmp_path):
    path = tmp_path / "a.png"
    picture().save(path)
    content = bytearray(path.read_bytes())
    content[29] ^= 0xFF  # in the checksum of the header chunk
    path.write_bytes(content)
    assert "expected a readable image" in error_of(path)


def test_damage_that_pillow_reports_as_a_syntax_error(tmp_path):
    path = tmp_path / "a.png"
    picture().save(path)
    content = path.read_bytes()
    after_header = 8 + 25
    broken_exif = png_chunk(b"eXIf", b"0M\x00*\x00\x00\x00\x08")
    path.write_bytes(content[:after_header] + broken_exif + content[after_header:])
    assert "expected a readable image, got not a TIFF file" in error_of(path)


def test_damage_that_pillow_reports_as_a_value_error(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n4 2x\n255\n" + bytes(24))
    assert "expected a readable image, got invalid literal" in error_of(path)


def test_a_decompression_bomb(tmp_path):
    path = tmp_path / "a.png"
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0")))
    assert "decompression bomb" in error_of(path)
