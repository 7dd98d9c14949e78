"""Readout images: modes, orientation and damage."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from safe_train.data.image import FORMATS, load_image
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


@pytest.mark.parametrize("transparency", [b"\xff\x00", b"\xff\x80"], ids=["one color", "shares"])
def test_a_palette_with_transparency(tmp_path, transparency):
    """Of one transparent color Pillow makes a number; it warns where a palette with shares is made RGB."""
    path = tmp_path / "a.png"
    image = Image.new("P", (2, 2), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    image.save(path, transparency=transparency)
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


# --- every mode in every format


MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I;16",
    "I",
    "F",
)
OPTIONS = {
    "TIFF": [{"compression": name} for name in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4")],
    "WEBP": [{}, {"lossless": True}],
    "JPEG": [{}, {"progressive": True}],
}


def noise(mode):
    """24 x 20 pixels in a mode; in those that Pillow does not convert noise to, one color."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8), "RGBA")
    if mode in ("LA", "RGBA", "RGBa"):
        return image.convert(mode)
    return (
        Image.new(mode, (20, 24), 1)
        if mode in ("La", "PA", "LAB", "RGBX", "I;16")
        else image.convert("RGB").convert(mode)
    )


def saved(tmp_path):
    """Every file that Pillow writes: its format and mode, the file, and the picture as Pillow reads it."""
    for kind in FORMATS:
        for mode in MODES:
            for number, options in enumerate(OPTIONS.get(kind, [{}])):
                path = tmp_path / f"{kind}-{mode.replace(';', '')}-{number}"
                try:
                    noise(mode).save(path, format=kind, **options)
                    with Image.open(path) as read:
                        read.load()
                except (OSError, ValueError):  # a mode that the format does not have, or does not read back
                    continue
                yield kind, mode, path, read


def rgb(image):
    """What Pillow's convert gives."""
    return np.asarray((image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of files that are cut
def test_every_mode_in_every_format_is_what_pillow_converts_it_to_or_is_refused(tmp_path):
    """Each file whole, and cut at eight places; what is cut is refused, or has lost nothing of the picture."""
    read, refused, cut = set(), set(), 0
    for kind, mode, path, image in saved(tmp_path):
        if image.mode in ("I", "F", "I;16"):
            assert f"expected at most 8 bits a channel, got Pillow mode {image.mode}" in error_of(path)
            refused.add((kind, mode))
            continue
        np.testing.assert_array_equal(np.asarray(load_image(path)), rgb(image), err_msg=path.name)
        read.add((kind, mode))
        content = path.read_bytes()
        for length in np.linspace(0, len(content) - 1, 8, dtype=int):
            path.write_bytes(content[:length])
            try:
                found = load_image(path)
            except InputError:
                error_of(path)
            else:
                np.testing.assert_array_equal(np.asarray(found), rgb(image), err_msg=f"{path.name} cut at {length}")
            cut += 1
    assert {kind for kind, _ in read} == set(FORMATS)
    assert len(read) >= 60
    assert refused >= {("PNG", "I;16"), ("TIFF", "F"), ("TIFF", "I")}
    assert cut >= 600


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_bytes_give_a_picture_or_one_line(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # a size that was damaged is soon too large
    path = tmp_path / "a"
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    noise("RGB").save(path, format=kind, **({} if kind in ("GIF", "BMP", "PPM", "JPEG2000") else {"exif": exif}))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(content), 300), rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert load_image(path).mode == "RGB"
        except InputError:
            error_of(path)


def test_a_jpeg_2000_that_ends_where_its_data_begin(tmp_path):
    """OpenJPEG gives a black picture for it."""
    path = tmp_path / "a.jp2"
    noise("RGB").save(path, format="JPEG2000")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\xff\x93")])
    assert "got image file is truncated" in error_of(path)


# --- formats and files that are not opened


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n0 0 moveto 48 48 lineto stroke\n%%EOF\n"


def test_postscript_under_the_name_of_a_picture_starts_no_interpreter(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments) or picture().im)
    path = tmp_path / "a.png"
    path.write_bytes(EPS)
    assert "expected a readable image, got none of JPEG, PNG, WEBP" in error_of(path)
    assert started == []
    with Image.open(io.BytesIO(EPS)) as image:  # negative control: without a list of formats it is started
        image.load()
    assert len(started) == 1


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "SGI", "DDS", "PDF"])
def test_other_formats_are_named_as_not_read(tmp_path, kind):
    path = tmp_path / "a.png"
    picture().resize((16, 16)).save(path, format=kind)
    assert "or one that is damaged at its beginning" in error_of(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    """Readout a FIFO would wait for ever."""
    os.mkfifo(tmp_path / "fifo")
    assert "expected an image, got a FIFO, a device or a socket" in error_of(tmp_path / "fifo")
    assert "got a FIFO, a device or a socket" in error_of(type(tmp_path)("/dev/zero"))
    (tmp_path / "folder").mkdir()
    assert "expected an image, got a folder" in error_of(tmp_path / "folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "got a path that cannot be followed (Too many levels of symbolic links)" in error_of(tmp_path / "loop")
    assert "got a path that cannot be followed (File name too long)" in error_of(tmp_path / ("a" * 300))
    with pytest.raises(InputError, match="got a name that no file can have"):
        load_image(tmp_path / "a\0b")


# --- EXIF


def exif_block(*entries):
    """An EXIF block of one directory in little-endian order: tag, type, count and a value (EXIF 2.3, 4.6)."""
    fields = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + fields + struct.pack("<I", 0)


BAD_TAGS = {
    "XResolution as text": (0x011A, 2, 4, b"abc\0"),
    "negative width": (0x0100, 9, 1, struct.pack("<i", -5)),
    "width as text": (0x0100, 2, 4, b"abc\0"),
    "a type that there is not": (0x011A, 99, 1, b"\1\0\0\0"),
    "a value behind the end": (0x010E, 2, 400, struct.pack("<I", 60_000)),
    "a count of a thousand million": (0x0111, 4, 10**9, struct.pack("<I", 8)),
    "a directory of its own": (0x8769, 4, 1, struct.pack("<I", 8)),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tag", BAD_TAGS.values(), ids=BAD_TAGS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of metadata that are damaged
def test_an_odd_tag_does_not_keep_a_picture_from_being_turned(tmp_path, kind, tag):
    path = tmp_path / "a"
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = noise("RGB")
    plain.save(path, format=kind, **options)
    expected = np.rot90(rgb(Image.open(path)), -1)
    plain.save(path, format=kind, exif=exif_block((EXIF_ORIENTATION, 3, 1, b"\6\0\0\0"), tag), **options)
    np.testing.assert_array_equal(np.asarray(load_image(path)), expected)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_is_turned_once(tmp_path, compression):
    path = tmp_path / "a.tif"
    picture().save(path, compression=compression, tiffinfo={EXIF_ORIENTATION: 6})
    np.testing.assert_array_equal(np.asarray(load_image(path)), np.rot90(np.asarray(picture()), -1))


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, value):
    path = tmp_path / "a.png"
    picture().save(path, exif=exif_block((EXIF_ORIENTATION, 3, 1, struct.pack("<I", value))))
    np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(picture()))
