"""Cells of Hugging Face data sets as paths: audio and images whose bytes stand in Parquet or Arrow files.

The package ``datasets`` reads them. It keeps what it makes of Parquet files, Arrow files that are mapped into memory,
under ``$SAFE_CACHE/datasets``.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from safe_train.errors import InputError
from safe_train.io.cache import cache_root
from safe_train.io.contained import ContainedFile
from safe_train.io.messages import one_line
from safe_train.io.series import whole_series

PARQUET_SUFFIX = ".parquet"
SAVED = "dataset_info.json"
"""In a folder that ``Dataset.save_to_disk`` has written."""

Media = Literal["audio", "image"]

_MAGIC: dict[Media, dict[bytes, str]] = {
    "audio": {
        b"RIFF": ".wav", b"RF64": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"FORM": ".aiff",
    },
    "image": {
        b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp", b"II*\0": ".tiff", b"MM\0*": ".tiff",
    },
}  # fmt: skip
"""What the name of a cell without a path ends in, by its first bytes; for people, and for readers that look at it."""

_ELSE: dict[Media, str] = {"audio": "", "image": ".jpg"}


class TableCell(ContainedFile):
    """The bytes of a clip or image in a data set; its place is row and column, and how many bytes there were."""

    @property
    def size(self) -> int:
        """How many bytes it has; known without reading them."""
        return self.place[2]

    def content(self) -> bytes:
        """The bytes.

        Raises:
            OSError: the data set cannot be read, or is another than it was.
        """
        row, column, _ = self.place
        try:
            return open_table(self.container).content(row, column)
        except (IndexError, KeyError) as error:
            raise OSError(errno.EIO, f"no row {row} with {column} any more", str(self)) from error
        except InputError as error:
            raise OSError(errno.EIO, error.got, str(self)) from error

    def _file(self) -> Path:
        return self.container / SAVED if self.container.is_dir() else self.container


class Table:
    """A data set, and which of its columns are clips and images.

    Attributes:
        data: the ``datasets.Dataset``, in which nothing is decoded.
        source: the first of its files, or its folder.
        media: the column of each kind.
    """

    def __init__(self, source: Path, data: Any) -> None:
        """Takes a data set.

        Raises:
            InputError: several columns are of one kind, and none has its name.
        """
        from datasets import Audio, Image

        self.source = source
        self.media: dict[Media, str] = {}
        kinds: tuple[tuple[Media, Any], ...] = (("audio", Audio), ("image", Image))
        for kind, feature in kinds:
            columns = [name for name, column in data.features.items() if isinstance(column, feature)]
            if len(columns) > 1 and kind not in columns:
                hint = f"call the one that counts {kind}"
                raise InputError(source, f"one column of {kind}", ", ".join(columns), hint)
            if columns:
                self.media[kind] = kind if kind in columns else columns[0]
            for name in columns:
                data = data.cast_column(name, feature(decode=False))
        self.data = data
        self._cells: dict[Media, list[Path | str | None]] = {}
        self._arrow = data.with_format("arrow")

    def content(self, row: int, column: str) -> bytes:
        """The bytes of a cell.

        Raises:
            IndexError: there is no such row.
            KeyError: there is no such column, or the cell has no bytes.
        """
        content = self._arrow[row].column(column)[0].as_py()["bytes"]
        if content is None:
            raise KeyError(column)
        return content

    def cells(self, kind: Media) -> list[Path | str | None]:
        """For each row its file: a cell, the path that stands there in place of the bytes, or None."""
        if kind in self._cells:
            return self._cells[kind]
        compute: Any = import_module("pyarrow.compute")  # whose functions are made when it is imported

        column = self.data.data.column(self.media[kind])
        paths = compute.struct_field(column, "path").to_pylist()
        contents = compute.struct_field(column, "bytes")
        sizes = compute.binary_length(contents).to_pylist()
        heads = compute.binary_slice(contents, 0, 4).to_pylist()
        name = self.media[kind]
        self._cells[kind] = [
            path if head is None else TableCell(self.source, f"{row:08d}{_suffix(kind, path, head)}", row, name, size)
            for row, (path, head, size) in enumerate(zip(paths, heads, sizes, strict=True))
        ]
        return self._cells[kind]

    def fields(self) -> dict[str, Sequence[Any]]:
        """The other columns: the values of each, class labels by their names."""
        from datasets import ClassLabel

        others = [name for name in self.data.column_names if name not in self.media.values()]
        columns: Mapping[str, Sequence[Any]] = self.data.select_columns(others)[:] if others else {}
        labels = {name: f for name, f in self.data.features.items() if isinstance(f, ClassLabel)}
        return {
            name: [None if v is None or v < 0 else labels[name].int2str(v) for v in values]
            if name in labels
            else values
            for name, values in columns.items()
        }

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.data)


def open_table(source: Path) -> Table:
    """A data set, opened once: a folder of ``Dataset.save_to_disk``, or a Parquet file and those numbered behind it.

    Raises:
        InputError: the package ``datasets`` is not installed, a numbered file is missing, or something cannot be read.
    """
    files = (source / SAVED,) if source.is_dir() else tuple(whole_series(source))
    return _open(source, files, tuple(path.stat().st_mtime_ns for path in files if path.exists()))


@lru_cache(maxsize=16)
def _open(source: Path, files: tuple[Path, ...], _changed: tuple[int, ...]) -> Table:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            source, "the package datasets, which reads it", "none", "pip install 'datasets>=5.2'"
        ) from error
    was_shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        if source.is_dir():
            return Table(source, datasets.load_from_disk(str(source)))
        kept = str(cache_root() / "datasets")
        loaded = datasets.load_dataset(
            "parquet", data_files=[str(path) for path in files], split="train", cache_dir=kept
        )
        return Table(source, loaded)
    except InputError:
        raise
    except Exception as error:  # of whatever kind: pyarrow's and the package's own have no common class
        words = one_line(str(error.__cause__ or error))
        raise InputError(source, "a data set that datasets can read", words, "fetch or write it again") from error
    finally:
        if was_shown:
            datasets.enable_progress_bars()


def _suffix(kind: Media, path: str | None, head: bytes) -> str:
    """What the name of a cell ends in: as its path does, or by its first bytes."""
    if path and (suffix := Path(path).suffix):
        return suffix.lower()
    if kind == "audio" and head[:1] == b"\xff" and head[1:2] >= b"\xe0":
        return ".mp3"
    return next((suffix for magic, suffix in _MAGIC[kind].items() if head.startswith(magic)), _ELSE[kind])


def find_cell(path: Path) -> Path | None:
    """The cell that a path names, or None."""
    source, row = path.parent, path.stem
    if not row.isdigit() or not (source.suffix == PARQUET_SUFFIX or (source / SAVED).is_file()):
        return None
    try:
        table = open_table(source)
    except InputError:
        return None
    cells = (table.cells(kind)[int(row)] for kind in table.media if int(row) < len(table))
    return next((cell for cell in cells if isinstance(cell, TableCell) and cell == path), None)
