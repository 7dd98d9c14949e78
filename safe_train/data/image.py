"""Reads image files as upright RGB images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image

from safe_train.errors import InputError
from safe_train.io.files import file_problem

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")
"""What is read, by content and whatever the name says. Pillow knows more, and starts Ghostscript for one of them."""

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")

# What Pillow's decoders raise for damaged files: SyntaxError for broken EXIF and PNG chunks, RuntimeError for AVIF, the
# others where a field of a header is not what it should be, and OSError for the rest.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

# EXIF 2.3, tag 0x0112: how the stored picture is to be turned.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(path: Path) -> Image.Image:
    """Reads an image, turns it upright as its EXIF orientation says, and drops an alpha channel.

    Of a file with several pictures, such as an animation, the first is read.

    Returns:
        An RGB image, 8 bits a channel.

    Raises:
        InputError: the file is missing, truncated, in none of ``FORMATS``, too large to be an image (Pillow's limit
            against decompression bombs), or has more than 8 bits a channel, which a conversion would clip.
    """
    with _open_image(path) as image:
        image.load()
        # Not Pillow's exif_transpose: it writes the EXIF block again, for which every other tag has to be right.
        # Of a TIFF file, which Pillow turns itself while it loads, no orientation is left.
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        upright = image.copy() if method is None else image.transpose(method)
    if upright.mode not in _MODES:
        got = f"Pillow mode {upright.mode}"
        raise InputError(path, "at most 8 bits a channel", got, "convert the image to 8-bit PNG or JPEG")
    # A palette with transparency given as bytes converts to RGB only by way of RGBA.
    return (upright.convert("RGBA") if upright.mode in ("P", "PA") else upright).convert("RGB")


def identify_image(path: Path) -> None:
    """Checks what opening an image shows, without decoding it.

    Raises:
        InputError: the file is missing, in none of ``FORMATS``, or damaged at its beginning.
    """
    with _open_image(path):
        pass


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    """An image of a format that is read; whatever Pillow raises for a damaged one inside the block is one line."""
    if problem := file_problem(path):
        raise InputError(path, "an image", problem, "check the path or remove its entry")
    try:
        # A file of another format is refused before any code that reads it has run.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.format == "JPEG2000":
                _require_end(path)
            yield image
    except Image.UnidentifiedImageError as error:
        got = f"none of {', '.join(FORMATS)}, or one that is damaged at its beginning"
        raise InputError(path, "a readable image", got, "convert or remove the file") from error
    except _DAMAGE as error:
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        raise InputError(path, "a readable image", reason, "replace or remove the file") from error


def _require_end(path: Path) -> None:
    """OSError for a JPEG 2000 file without the marker at its end, of which some are decoded to black all the same.

    Source: ISO/IEC 15444-1, annex A: no two bytes of coded data, which begin behind SOD, look like EOC.
    """
    _, start_of_data, coded = path.read_bytes().partition(b"\xff\x93")
    if not start_of_data or b"\xff\xd9" not in coded:
        raise OSError("image file is truncated")
