"""WebDataset shards: entries of a data set in tar archives, with the audio and images that belong to them.

The files of a sample stand one behind the other and share a key: the name up to the first dot of its last part. Source:
the WebDataset format, https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from safe_train.audio.formats import AUDIO_SUFFIXES
from safe_train.errors import InputError
from safe_train.io.archives import ArchivedFile, list_archive
from safe_train.io.series import whole_series

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".jp2")
"""Of the images in shards."""


def read_shards(first: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samples of a shard and of those numbered behind it: where each stands, and its fields.

    A sample's fields are those of its ``.json``; ``audio`` and ``image``, files in the archive; and, where the
    ``.json`` has none, ``caption``, the text of its ``.txt``, and ``id``, its key. Other files are left out.

    Raises:
        InputError: an archive cannot be read, one of the numbered is missing, or a sample has two clips, two images, or
            JSON that is no object.
    """
    for shard in whole_series(first):
        files = list_archive(shard)
        for key, of_sample in groupby(files, key=lambda file: _split_name(file)[0]):
            where = f"{shard}: {key}"
            yield where, {"id": key} | _read_sample(where, list(of_sample))


def _split_name(file: ArchivedFile) -> tuple[str, str]:
    """Key and extension of a file: ``a/1.left.png`` is ``a/1`` and ``left.png``."""
    folder, _, name = file.name_inside.rpartition("/")
    key, _, extension = name.partition(".")
    return f"{folder}/{key}" if folder else key, extension.lower()


def _read_sample(where: str, files: list[ArchivedFile]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    found: dict[str, ArchivedFile] = {}
    for file in files:
        suffix = file.suffix.lower()
        kind = "audio" if suffix in AUDIO_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else None
        if kind in found:
            got = f"{found[kind].name} and {file.name}"
            raise InputError(where, f"one file of {kind} in a sample", got, "give each a sample of its own")
        if kind is not None:
            found[kind] = file
        elif suffix == ".json":
            fields = _read_fields(where, file)
        elif suffix == ".txt":
            texts = {"caption": _read_text(where, file)}
    return texts | fields | found


def _read_fields(where: str, file: ArchivedFile) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(where, file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: {file.name}", "JSON", str(error), "mend or regenerate the shard") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: {file.name}", "a JSON object", type(value).__name__, "write {...}")
    return value


def _read_text(where: str, file: ArchivedFile) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"bytes that are not at {error.start}"
        raise InputError(f"{where}: {file.name}", "UTF-8 text", got, "mend or regenerate the shard") from error
    except OSError as error:
        raise InputError(
            f"{where}: {file.name}", "a whole file", str(error.strerror), "fetch the shard again"
        ) from error
