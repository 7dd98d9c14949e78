"""Images and clips as data URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from safe_train.data.image import load_image
from safe_train.data.procedural import is_in_made_folder
from safe_train.errors import InputError
from safe_train.io.files import file_problem
from safe_train.io.find_file import find_file
from safe_train.io.fingerprints import content_sha256

LARGEST_SIDE = 320
LARGEST_CLIP, LARGEST_IMAGE = 1_000_000, 100_000_000
"""Bytes of a file; a larger one is named and not embedded."""

_AUDIO_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
_GAIN = re.compile(r"(?P<path>.+) (?P<gain>[+-]\d+(?:\.\d+)?(?:e[+-]?\d+)?) dB")


@dataclass(frozen=True)
class Picture:
    """An image of an example.

    Attributes:
        path: where it was.
        uri: its contents, or None.
        problem: why there are none.
    """

    path: str
    uri: str | None
    problem: str = ""


@dataclass(frozen=True)
class Clip:
    """What was heard.

    Attributes:
        words: the path, the noise, or silence, and the gain.
        uri: the recording as it is in its file, before any gain; None where there is no file to play.
        problem: why the file is not embedded.
    """

    words: str
    uri: str | None = None
    problem: str = ""


def picture(path: Path, sha256: str | None) -> Picture:
    """The image, at most ``LARGEST_SIDE`` wide and high, as PNG where that is small and as JPEG otherwise.

    Args:
        path: the image.
        sha256: of the image that was evaluated, as the run says; see :func:`_explain_refusal`.
    """
    path = find_file(path)
    if problem := _explain_refusal(path, sha256, LARGEST_IMAGE):
        return Picture(str(path), None, problem)
    try:
        image = load_image(path)
    except InputError as error:
        return Picture(str(path), None, error.got)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    kind, options = ("png", {}) if max(image.size) <= 128 else ("jpeg", {"quality": 82})
    return Picture(str(path), _uri(f"image/{kind}", _encode(image, kind, options)))


def clip(heard: str, sha256_of: Mapping[str, str]) -> Clip:
    """The clip that :func:`~safe_train.audio.input.describe` gave these words for.

    Args:
        heard: the words.
        sha256_of: of the clips that were evaluated, by path; see :func:`_explain_refusal`.
    """
    match = _GAIN.fullmatch(heard)
    path = Path(match["path"] if match else heard)
    if not path.suffix or heard.startswith("white noise "):
        return Clip(heard)
    words = f"{path.name}, heard at {match['gain']} dB" if match else path.name
    kind = _AUDIO_TYPES.get(path.suffix.lower())
    if kind is None:
        return Clip(str(heard), problem=f"{path.suffix} is not played by browsers")
    path = find_file(path)
    if problem := _explain_refusal(path, sha256_of.get(str(path)), LARGEST_CLIP):
        return Clip(str(heard), problem=problem)
    try:
        return Clip(words, _uri(kind, path.read_bytes()))
    except OSError as error:
        return Clip(str(heard), problem=str(error.strerror or error))


def _explain_refusal(path: Path, sha256: str | None, largest: int) -> str:
    """Why a file is not embedded; empty if it is to be.

    A run that comes from someone else may name any file of this machine, or a link to one. Whoever names its digest
    has it already. Runs of earlier versions name none: of theirs, files in the program's own data folder are shown.
    """
    if problem := file_problem(path):
        return problem
    try:
        if (size := path.stat().st_size) > largest:
            return f"{size / 1e6:.1f} MB, too large to be embedded"
        if sha256 is None:
            known = is_in_made_folder([path.resolve()])
            return "" if known else "its contents were not recorded; safe eval on the run records them"
        return "" if content_sha256(path) == sha256 else "not the file that was evaluated"
    except InputError as error:
        return error.got
    except OSError as error:
        return str(error.strerror or error)


def _encode(image: Image.Image, kind: str, options: dict[str, int]) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
