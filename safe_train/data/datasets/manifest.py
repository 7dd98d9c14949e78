"""Shared by the readers: finding a set's files, reading JSON and JSONL, and resolving paths inside the data root."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_train.data.datasets.hf_tables import read_table
from safe_train.data.datasets.shards import read_shards
from safe_train.errors import InputError
from safe_train.io.archives import ARCHIVE_SUFFIX
from safe_train.io.files import file_problem, folder_problem, is_file_or_folder
from safe_train.io.messages import LONGEST, shortened, typed
from safe_train.io.series import find_series
from safe_train.io.tables import PARQUET_SUFFIX, SAVED

UNICODE = "text that is Unicode"
"""What is expected of a text with a lone surrogate, by which the error is known."""

IMAGE_TOKEN = "<image>"
"""What processors replace by an image's tokens; beside an entry's own image it would stand for one image too many."""

NO_PLACEHOLDER = f"text without the literal {IMAGE_TOKEN}, which processors replace by an image"
"""What is expected of a text that holds it, by which the error is known."""

A_PATH = "the path of a file"
"""What is expected where there is what can be none, by which the error is known."""

LONGEST_NAME, LONGEST_PATH = 255, 4_095
"""Bytes of a file's name, and of a whole path, that file systems take."""

_PLACES = ("", "data", "shards")
"""Folders of a data set in which shards and Parquet files are looked for."""

_ADDRESS = re.compile(r"(?P<scheme>data):|(?P<remote>https?|ftp|s3|gs|hdfs)://", re.IGNORECASE)

_LONGEST_NUMBER = 4_000  # digits; Python converts no more than 4,300


@dataclass(frozen=True)
class Record:
    """One entry of a manifest and its position. A field that is null counts as absent.

    Attributes:
        where: file and position, for error messages.
        fields: the entry as read.
    """

    where: str
    fields: dict[str, Any]

    def optional(self, *names: str) -> Any:
        """The value of the first name that is present, or None."""
        return next((self.fields[name] for name in names if self.fields.get(name) is not None), None)

    def required(self, *names: str) -> Any:
        """The value of the first name that is present; InputError if none is."""
        value = self.optional(*names)
        if value is None:
            got = f"the fields {shortened(_list_names(self.fields))}"
            raise InputError(self.where, _alternatives(names), got, "add the field")
        return value

    def text(self, *names: str) -> str:
        """A text that is not blank; InputError otherwise."""
        value = self.required(*names)
        if not _is_text(value):
            expected = f"{_alternatives(names)} to be text"
            raise InputError(self.where, expected, typed(value), "write a non-empty string")
        return self._require_encodable(value)

    def optional_text(self, *names: str) -> str | None:
        """A text that is not blank, or None if none of the fields is present; InputError otherwise."""
        return None if self.optional(*names) is None else self.text(*names)

    def texts(self, *names: str) -> tuple[str, ...]:
        """A text or a list of texts, none of them blank, as a tuple; InputError otherwise."""
        value = self.required(*names)
        values = value if isinstance(value, list) else [value]
        if not values or not all(_is_text(item) for item in values):
            expected = f"{_alternatives(names)} to be text or a list of texts"
            raise InputError(self.where, expected, typed(value), "write non-empty strings")
        return tuple(self._require_encodable(item) for item in values)

    def question(self, *names: str, has_image: bool) -> str:
        """A text that is put to a model; see :func:`strip_placeholder`."""
        return strip_placeholder(self.text(*names), self.where, has_image=has_image)

    def optional_question(self, *names: str, has_image: bool) -> str | None:
        """The same, or None if none of the fields is present."""
        return None if self.optional(*names) is None else self.question(*names, has_image=has_image)

    def references(self, *names: str) -> tuple[str, ...]:
        """As :meth:`texts`, none of them with the placeholder of an image."""
        return tuple(strip_placeholder(text, self.where) for text in self.texts(*names))

    def _require_encodable(self, text: str) -> str:
        return require_encodable(text, self.where)

    def integer(self, *names: str) -> int:
        """A whole number, also as digits in a string; InputError otherwise."""
        value = self.required(*names)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and len(value) <= _LONGEST_NUMBER and value.isascii() and value.isdigit():
            return int(value)
        expected = f"{_alternatives(names)} to be a whole number"
        raise InputError(self.where, expected, typed(value), "number the entries")

    def number_or_name(self, *names: str) -> int | str:
        """A whole number, also as digits in a string, or a text that is none; InputError otherwise.

        Digits that no number is written with, as those of GQA's ``05515938``, are a name.
        """
        value = self.required(*names)
        if isinstance(value, str):
            text = self.text(*names)
            return int(text) if _is_number(text) else text
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        expected = f"{_alternatives(names)} to be text or a whole number"
        raise InputError(self.where, expected, typed(value), "name or number the entries")

    def identifier(self, *names: str) -> str:
        """The same as text."""
        return str(self.number_or_name(*names))


def require_encodable(text: str, where: str) -> str:
    """The text; InputError if it has half of a character, as of an emoji that was cut in two, which no encoding has."""
    if found := next((character for character in text if 0xD800 <= ord(character) <= 0xDFFF), None):
        raise InputError(where, UNICODE, f"the lone surrogate U+{ord(found):04X}", "mend the text")
    return text


def strip_placeholder(text: str, where: str, *, has_image: bool = False) -> str:
    """The text without the literal ``<image>`` that stands for the entry's image before or behind its question.

    Lists made for LLaVA and its like write it there. Prompts put an image before its question in any case.

    Raises:
        InputError: it stands in a text that goes with no image, within a question, more than once, or alone.
    """
    if IMAGE_TOKEN not in text:
        return text
    bare = text.strip()
    question = bare.removeprefix(IMAGE_TOKEN) if bare.startswith(IMAGE_TOKEN) else bare.removesuffix(IMAGE_TOKEN)
    question = question.strip()
    if has_image and question and IMAGE_TOKEN not in question:
        return question
    hint = "remove it" + ("; it may stand once, before or behind the question" if has_image else "")
    raise InputError(where, NO_PLACEHOLDER, repr(_excerpt(text, IMAGE_TOKEN)), hint)


def require_folder(folder: Path, expected: str, hint: str) -> None:
    """InputError if the folder is not there, cannot be followed, or has a name that is not UTF-8."""
    if problem := folder_problem(folder):
        raise InputError(folder, expected, problem, hint)
    require_utf8(folder.absolute(), expected)


def require_utf8(path: Path, expected: str) -> Path:
    """The path, which is to be written into files; InputError if its bytes are not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(path, expected, "a name that is not UTF-8", "rename the file or folder") from error
    return path


def require_set_folder(root: Path, name: str) -> Path:
    """The folder of a data set in the root; InputError if the root or the folder is missing."""
    for folder, content in ((root, "a data root"), (root / name, f"the folder of the data set {name}")):
        require_folder(folder, content, f"give a data root that contains {name}/")
    return root / name


def manifest_names(set_name: str, split: str) -> tuple[str, ...]:
    """The file names that a manifest may have, in the order in which they are tried."""
    return tuple(f"{stem}{suffix}" for stem in (f"{set_name}_{split}", split) for suffix in (".jsonl", ".json"))


def find_manifest(folder: Path, set_name: str, split: str) -> Path | None:
    """The first manifest of the split that exists, or else what holds its entries with their files, or None.

    That is the first of its shards or Parquet files, called ``<set>_<split>`` or ``<split>``, perhaps with a number
    behind, in the set's folder or in ``data/`` or ``shards/`` there; or a folder ``<split>`` that
    ``Dataset.save_to_disk`` has written.
    """
    candidates = (folder / name for name in manifest_names(set_name, split))
    if found := next((path for path in candidates if file_problem(path) is None), None):
        return found
    for place in (folder / name for name in _PLACES):
        for suffix in (ARCHIVE_SUFFIX, PARQUET_SUFFIX):
            for stem in (f"{set_name}_{split}", split):
                if series := find_series(place, stem, suffix):
                    return series[0]
    saved = folder / split
    return saved if file_problem(saved / SAVED) is None else None


def read_text(path: Path) -> str:
    """The file as UTF-8 text, without a byte order mark; InputError if it cannot be read."""
    if problem := file_problem(path):
        raise InputError(path, "a readable file", problem, "check path and permissions")
    try:
        # newline="" keeps line breaks as they are: CSV fields may contain them.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        got = f"bytes that are not at {error.start}"
        raise InputError(path, "UTF-8 text", got, "convert the file to UTF-8") from error
    except OSError as error:
        raise InputError(path, "a readable file", error.strerror or str(error), "check path and permissions") from error


def read_json(path: Path) -> Any:
    """The parsed file; InputError with line and column if it is not JSON."""
    return _parse(read_text(path), path, first_line=1)


def read_records(path: Path) -> list[Record]:
    """The entries of a manifest: the lines of a ``.jsonl`` file, the list in a ``.json`` file, or what shards hold.

    Raises:
        InputError: the file cannot be read, is malformed, has an entry that is not an object, or has no entry.
    """
    entries: Iterator[tuple[str, object]]
    if path.suffix == ARCHIVE_SUFFIX:
        entries = read_shards(path)
    elif path.suffix == PARQUET_SUFFIX or path.is_dir():
        entries = read_table(path)
    else:
        entries = _jsonl_entries(path) if path.suffix == ".jsonl" else _list_entries(path)
    records = [as_record(entry, where) for where, entry in entries]
    if not records:
        raise InputError(path, "at least one entry", "none", "write an entry for each example")
    return records


def as_record(entry: object, where: str) -> Record:
    """The entry as a record; InputError if it is not a JSON object."""
    if not isinstance(entry, dict):
        raise InputError(where, "a JSON object", typed(entry), "write each entry as {...}")
    return Record(where, entry)


def require_manifest(folder: Path, set_name: str, split: str) -> Path:
    """The first manifest of the split that exists; InputError if none does."""
    found = find_manifest(folder, set_name, split)
    if found is None:
        expected = " or ".join(manifest_names(set_name, split))
        raise InputError(folder, expected, "none of them", f"put one there or name a split other than {split!r}")
    return found


def require_unique(records: Sequence[Record], keys: Sequence[str]) -> None:
    """InputError if two records have one key; ``keys`` are theirs, in order."""
    first: dict[str, Record] = {}
    for record, key in zip(records, keys, strict=True):
        if key in first:
            got = f"{shortened(key)} again, first at {first[key].where}"
            raise InputError(record.where, "an id of its own", got, "remove or rename one of the two")
        first[key] = record


def resolve(root: Path, folder: Path, written: str, where: str) -> Path:
    """The path that a manifest means: in the data root or, if nothing is there, in the set's folder.

    Paths are compared as they are written. A symbolic link below the root may point elsewhere: whoever keeps the
    root put it there. A manifest may come from someone else, and its text cannot lead out of the root.

    Args:
        root: the data root.
        folder: the set's folder in the root, against which manifests of the original pack format are written.
        written: the path as it stands in the manifest.
        where: file and position, for error messages.

    Raises:
        InputError: the path leaves the data root, has a name that no file can have, or is an address.
    """
    _require_path(written, where)
    # As text: path objects for all that is only looked at would take most of the time of a large manifest.
    boundary = os.path.abspath(root)  # noqa: PTH100
    in_root, in_folder = (os.path.abspath(os.path.join(base, written)) for base in (root, folder))  # noqa: PTH100, PTH118
    for path in (in_root, in_folder):
        if path != boundary and not path.startswith(boundary.rstrip(os.sep) + os.sep):
            hint = "write paths relative to the data root"
            raise InputError(where, f"a path in {root}", f"{shortened(written)!r}, which leaves it", hint)
    return Path(in_root if is_file_or_folder(in_root) or not is_file_or_folder(in_folder) else in_folder)


def optional_file(record: Record, names: Sequence[str], root: Path, folder: Path) -> Path | None:
    """The file in the first of the fields that is there: one in a shard, or what a written path means; or None.

    Raises:
        InputError: as :func:`resolve`, or the field holds neither.
    """
    value = record.optional(*names)
    if value is None or isinstance(value, Path):
        return value
    return resolve(root, folder, record.text(*names), record.where)


def required_file(record: Record, names: Sequence[str], root: Path, folder: Path) -> Path:
    """The same; InputError if none of the fields is there."""
    record.required(*names)
    found = optional_file(record, names, root, folder)
    assert found is not None
    return found


def _require_path(written: str, where: str) -> None:
    """InputError for what can be the path of no file: contents, an address elsewhere, or a name that is too long."""
    expected = A_PATH
    if match := _ADDRESS.match(written):
        got = "a data: URI" if match["scheme"] else f"the address {shortened(written)!r}"
        raise InputError(where, expected, got, "put the file below the data root and write its path")
    whole = len(written.encode())
    if whole > LONGEST_PATH:
        got = f"one of {whole:,} bytes, which begins with {written[:20]!r}"
        raise InputError(where, expected, got, f"write a path of at most {LONGEST_PATH:,} bytes")
    longest = max(len(part.encode()) for part in written.split("/"))
    if longest > LONGEST_NAME:
        got = f"a name of {longest:,} bytes, which begins with {written[:20]!r}"
        raise InputError(where, expected, got, f"write a path whose names have at most {LONGEST_NAME} bytes")
    if "\0" in written:
        raise InputError(where, expected, f"{shortened(written)!r} with a zero byte", "mend the path")


def _jsonl_entries(path: Path) -> Iterator[tuple[str, object]]:
    # Not splitlines(): JSON strings may hold U+2028 and its like, which are no line breaks in JSONL.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _parse(line, path, first_line=number)


def _list_entries(path: Path) -> Iterator[tuple[str, object]]:
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(path, "a JSON list of entries", typed(content), "write [{...}, {...}] or use .jsonl")
    for index, entry in enumerate(content):
        yield f"{path}: entry {index}", entry


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{first_line + error.lineno - 1}:{error.colno}"
        raise InputError(where, "JSON", f"{error.msg.lower()}", "mend or regenerate the file") from error
    except RecursionError as error:
        got = "lists or objects that are nested too deep"
        raise InputError(f"{path}:{first_line}", "JSON", got, "mend or regenerate the file") from error
    except ValueError as error:  # Python refuses to convert a number of more than 4,300 digits
        got = "a number of thousands of digits"
        raise InputError(f"{path}:{first_line}", "JSON", got, "mend or regenerate the file") from error


def _is_number(text: str) -> bool:
    """Whether a text is what a whole number of at least 0 is written as."""
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER and (text == "0" or text[0] != "0")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _alternatives(names: tuple[str, ...]) -> str:
    return f"the field {' or '.join(names)}"


def _list_names(fields: dict[str, Any]) -> str:
    return ", ".join(fields) or "(none)"


def _excerpt(text: str, found: str) -> str:
    """A short text whole; of a longer one, what ``found`` stands in."""
    if len(text) <= LONGEST:
        return text
    place = text.index(found)
    return f"... {text[max(0, place - LONGEST // 2) : place + LONGEST // 2]} ..."
