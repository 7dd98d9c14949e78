"""The data sets by name. Settings, help and the check read this table; a new reader is one line of it.

Readers are given as text, so that settings know every name without importing torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from safe_train.errors import nearest

if TYPE_CHECKING:
    from safe_train.data.datasets.reader import DatasetReader

ExampleKind = Literal["audio", "vl", "text"]
"""Examples with a clip, with an image, or with text alone."""

Location = Literal["data_root", "pack_root", "embedded"]
"""Whose folder: that of ``data.root``, that of ``data.pack_root``, or the one that the program writes itself."""


@dataclass(frozen=True)
class Dataset:
    """A data set, before any of its readers is imported.

    Attributes:
        readers: by kind of examples, ``module:class`` of its :class:`~safe_train.data.datasets.reader.DatasetReader`.
        location: the folder passed to the readers as root.
    """

    readers: Mapping[ExampleKind, str]
    location: Location = "data_root"

    def load_reader(self, kind: ExampleKind) -> DatasetReader[Any]:
        """The reader of a kind that it has."""
        module, name = self.readers[kind].split(":")
        return getattr(import_module(module), name)()

    def load_readers(self) -> list[DatasetReader[Any]]:
        """The readers of all its kinds."""
        return [self.load_reader(kind) for kind in self.readers]


_HERE = __name__.rpartition(".")[0]

DATASETS: dict[str, Dataset] = {
    "audiocaps": Dataset({"audio": f"{_HERE}.audiocaps:AudioCaps"}),
    "wavcaps": Dataset({"audio": f"{_HERE}.wavcaps:WavCaps"}),
    "avqa": Dataset({"audio": f"{_HERE}.avqa:AVQA"}),
    "vqa": Dataset({"vl": f"{_HERE}.vqa:VQA"}),
    "text": Dataset({"text": f"{_HERE}.text:Text"}),
    "pack": Dataset(
        {"audio": f"{_HERE}.pack:PackClips", "vl": f"{_HERE}.pack:PackQuestions", "text": f"{_HERE}.pack:PackText"},
        location="pack_root",
    ),
    "embedded": Dataset(
        {"audio": f"{_HERE}.audiocaps:AudioCaps", "vl": f"{_HERE}.vqa:VQA", "text": f"{_HERE}.text:Text"},
        location="embedded",
    ),
}
"""In the order in which they are checked and listed."""


def dataset_names(kind: ExampleKind) -> tuple[str, ...]:
    """The data sets that have examples of a kind."""
    return tuple(name for name, dataset in DATASETS.items() if kind in dataset.readers)


def checked_names() -> tuple[str, ...]:
    """The data sets that ``safe data check`` knows; the procedural data are in the formats of others."""
    return tuple(name for name, dataset in DATASETS.items() if dataset.location != "embedded")


def suggest(name: str, choices: Sequence[str]) -> str:
    """What to do about a name that is none of the choices."""
    found = nearest(name, choices)
    return f"did you mean {found!r}?" if found else "choose one of them"
