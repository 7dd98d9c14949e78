"""Hugging Face data sets: entries in Parquet files or saved data sets, with the audio and images in their cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safe_train.io.tables import open_table


def read_table(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a data set: where each stands, and its fields.

    A row's fields are its columns. The one of audio and the one of images, told by their features, are ``audio`` and
    ``image`` whatever they are called; a list of objects with an ``answer``, as VQA v2 has, is the list of these; and
    ``id`` is the row's number, where there is no such column.

    Raises:
        InputError: as :func:`~safe_train.io.tables.open_table`.
    """
    table = open_table(source)
    columns = {name: [_plain(value) for value in values] for name, values in table.fields().items()}
    columns |= {kind: table.cells(kind) for kind in table.media}
    for row in range(len(table)):
        yield f"{source}: row {row}", {"id": row} | {name: values[row] for name, values in columns.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(item, dict) and "answer" in item for item in value):
        return [item["answer"] for item in value]
    return value
