"""Reads examples from a named source: a data set of the root, a pack, or the procedural data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_train.data.datasets.reader import DatasetReader
from safe_train.data.datasets.registry import DATASETS, ExampleKind, Location
from safe_train.data.example import Example
from safe_train.data.sampler import Subset
from safe_train.data.settings import AUTO_SOURCE, EMBEDDED_DATA, NO_SOURCE, DataSettings, WeightedSource
from safe_train.embedded.dataset import embedded_data_root
from safe_train.errors import InputError

RETENTION_RATIO = 0.2
_TEXT = "text"


def read_audio_examples(source: str, data: DataSettings, split: str) -> Subset:
    """All audio examples of a source; a pack has no splits.

    Raises:
        InputError: a file is missing or malformed.
    """
    return Subset.whole(_read("audio", source, data, split))


def read_vl_examples(source: str, data: DataSettings, split: str) -> Subset:
    """All VL examples of a source; a pack has no splits.

    Raises:
        InputError: a file is missing or malformed, or a question has no answer.
    """
    examples = _read("vl", source, data, split)
    if unanswered := [example.row_id for example in examples if not example.answers]:
        got = f"{len(unanswered)} without, first {unanswered[0]}"
        hint = "choose a split with annotations"
        reader, root = _find_reader("vl", source, data)
        raise InputError(root / reader.name, f"answers for every question of {split}", got, hint)
    return Subset.whole(examples)


def read_vl_splits(data: DataSettings) -> tuple[Subset, Subset]:
    """All VL examples for retention and all to evaluate on; those of a mixture for retention are read apart.

    Where one source without splits is to give both, a fifth of its images are for retention, the others to evaluate.

    Raises:
        InputError: as :func:`read_vl_examples`, or both are to come from one list about one image.
    """
    train, val = data.train_vl_source, data.val_vl_source
    if data.train_vl_mixture:
        return Subset.whole([]), read_vl_examples(val, data, _val_split(data))
    if _is_shared("vl", train, val):
        return read_vl_examples(train, data, "").split(RETENTION_RATIO)
    return read_vl_examples(train, data, data.train_split), read_vl_examples(val, data, _val_split(data))


@dataclass(frozen=True)
class TrainingExamples:
    """Examples of one kind to train on, of one source or of several.

    Attributes:
        subset: the examples, source behind source; an index counts on through all examples of the sources.
        parts: for each of several sources the number of its examples, and its weight; empty for one source.
    """

    subset: Subset
    parts: tuple[tuple[int, float], ...] = ()


def read_mixture(
    kind: ExampleKind, sources: Sequence[WeightedSource], data: DataSettings, limit: int | None, seed: int
) -> TrainingExamples:
    """Examples of several sources to train on, at most ``limit`` of each.

    Raises:
        InputError: a file is missing or malformed, or a VL example has no answer.
    """
    read = {"audio": read_audio_examples, "vl": read_vl_examples, "text": read_text_examples}[kind]
    rows: list[Example] = []
    indices: list[int] = []
    parts, before = [], 0
    for given in sources:
        whole = read(given.source, data, data.train_split)
        drawn = whole.draw(limit, seed)
        rows += drawn.rows
        indices += [before + index for index in drawn.indices]
        parts.append((len(drawn.rows), given.weight))
        before += len(whole.rows)
    return TrainingExamples(Subset(rows, indices), tuple(parts))


def find_text_source(source: str, beside: str, data: DataSettings) -> str:
    """The source that a setting selects; ``auto`` is the one that belongs to the VL examples, or ``none``.

    A data set with VL and text-only examples gives both, if it has a list of the latter; otherwise there is the folder
    ``text/`` of the root, but procedural VL examples come with procedural text alone.
    """
    if source != AUTO_SOURCE:
        return source
    candidates = [beside] if "text" in DATASETS[beside].readers else []
    candidates += [] if DATASETS[beside].location == "embedded" else [_TEXT]
    for candidate in candidates:
        reader, root = _find_reader("text", candidate, data)
        if reader.is_present(root):
            return candidate
    return NO_SOURCE


def read_text_examples(source: str, data: DataSettings, split: str) -> Subset:
    """All text-only examples of a source, which is not ``auto``; a pack has no splits.

    Raises:
        InputError: a file is missing or malformed.
    """
    return Subset.whole([] if source == NO_SOURCE else _read("text", source, data, split))


def read_text_splits(train: str, val: str, data: DataSettings) -> tuple[Subset, Subset]:
    """All text-only examples for retention and all to evaluate on, of sources that are not ``auto``.

    Where one source without splits is to give both, a fifth of its clusters are for retention, the others to evaluate.

    Raises:
        InputError: as :func:`read_text_examples`, or both are to come from one list of one cluster.
    """
    if _is_shared("text", train, val):
        return read_text_examples(train, data, "").split(RETENTION_RATIO, of="texts")
    return read_text_examples(train, data, data.train_split), read_text_examples(val, data, _val_split(data))


def _val_split(data: DataSettings) -> str:
    """The split of VL and text-only examples to evaluate on."""
    return data.val_vl_split or data.val_split


def _is_shared(kind: ExampleKind, train: str, val: str) -> bool:
    """Whether training and evaluation would take the same examples."""
    return train == val and train != NO_SOURCE and not DATASETS[train].load_reader(kind).has_splits


def _read(kind: ExampleKind, source: str, data: DataSettings, split: str) -> list[Example]:
    reader, root = _find_reader(kind, source, data)
    return reader.examples(root, split, default_question=data.audio_question)


def _find_reader(kind: ExampleKind, source: str, data: DataSettings) -> tuple[DatasetReader[Any], Path]:
    """The reader of a source, and the root that it is to be given."""
    dataset = DATASETS[source]
    return dataset.load_reader(kind), _find_root(dataset.location, data)


def _find_root(location: Location, data: DataSettings) -> Path:
    """The folder; the procedural data are written if they are asked for and not there yet."""
    if location == "embedded" or (location == "data_root" and data.root == EMBEDDED_DATA):
        return embedded_data_root()
    folder = data.pack_root if location == "pack_root" else data.root
    assert folder is not None  # the configuration sees to it
    return Path(folder).expanduser()
