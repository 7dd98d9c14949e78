"""Image files as upright RGB pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from safe_train.errors import InputError

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")


def load_image(path: Path) -> Image.Image:
    """Reads an image, turns it upright as its EXIF orientation says, and drops an alpha channel.

    Returns:
        An RGB image, 8 bits a channel.

    Raises:
        InputError: the file is missing, truncated, no image, too large to be one (Pillow's limit against decompression
            bombs), or has more than 8 bits a channel, which a conversion would clip.
    """
    if not path.is_file():
        raise InputError(path, "an image", "no such file", "check the path or remove its entry")
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            upright.load()
    # Pillow raises SyntaxError for broken EXIF and PNG chunks, ValueError for some headers, OSError for the rest.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), path.name)
        raise InputError(path, "a readable image", reason, "replace or remove the file") from error
    if upright.mode not in _MODES:
        got = f"Pillow mode {upright.mode}"
        raise InputError(path, "at most 8 bits a channel", got, "convert the image to 8-bit PNG or JPEG")
    # A palette with transparency given as bytes converts to RGB only by way of RGBA.
    return (upright.convert("RGBA") if upright.mode in ("P", "PA") else upright).convert("RGB")
