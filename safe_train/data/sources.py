"""Where rows come from, by name: the data sets of a root, a pack, or the procedural data."""

from __future__ import annotations

from pathlib import Path

from safe_train.data.datasets.audiocaps import load_audiocaps
from safe_train.data.datasets.avqa import load_avqa
from safe_train.data.datasets.clips import AudioRecord
from safe_train.data.datasets.conversion import audio_rows, text_rows, vl_rows
from safe_train.data.datasets.pack import TEXT_LIST, load_pack_clips, load_pack_questions, load_pack_text
from safe_train.data.datasets.text import TEXT_SET, load_text
from safe_train.data.datasets.vqa import VQARecord, load_vqa
from safe_train.data.datasets.wavcaps import load_wavcaps
from safe_train.data.sampler import Subset
from safe_train.data.settings import EMBEDDED_DATA, AudioSource, DataSettings, TextSource, VLSource
from safe_train.embedded.dataset import embedded_data_root
from safe_train.errors import InputError
from safe_train.io.files import file_problem, folder_problem

RETENTION_RATIO = 0.2
_READERS = {"audiocaps": load_audiocaps, "wavcaps": load_wavcaps, "avqa": load_avqa}


def read_audio_examples(source: AudioSource, data: DataSettings, split: str) -> Subset:
    """All audio rows of a source; a pack has no splits.

    Raises:
        InputError: a file is missing or malformed.
    """
    return Subset.whole(audio_rows(_clips(source, data, split), data.audio_question))


def read_vl_examples(source: VLSource, data: DataSettings, split: str) -> Subset:
    """All VL rows of a source; a pack has no splits.

    Raises:
        InputError: a file is missing or malformed, or a question has no answer.
    """
    rows = vl_rows(_questions(source, data, split))
    if unanswered := [row.row_id for row in rows if not row.answers]:
        got = f"{len(unanswered)} without, first {unanswered[0]}"
        hint = "choose a split with annotations"
        raise InputError(f"{data.root}/vqa", f"answers for every question of {split}", got, hint)
    return Subset.whole(rows)


def split_pack_questions(data: DataSettings) -> tuple[Subset, Subset]:
    """The pack's VL rows to protect, those of a fifth of its images, and those to evaluate on, of the other images.

    Raises:
        InputError: the pack's questions are missing or malformed, or they are all about one image.
    """
    return read_vl_examples("pack", data, "").split(RETENTION_RATIO)


def find_text_source(source: TextSource, beside: VLSource, data: DataSettings) -> TextSource:
    """The source that a setting stands for; ``auto`` is the one that stands beside the VL rows, or none.

    Procedural VL rows come with procedural text-only rows, those of a pack with its list, if it has one; otherwise
    there is the folder ``text/`` of the root.
    """
    if source != "auto":
        return source
    if beside == "embedded" or (beside == "vqa" and data.root == EMBEDDED_DATA):
        return "embedded" if (embedded_data_root() / TEXT_SET).is_dir() else "none"
    if beside == "pack" and file_problem(_pack_root(data) / TEXT_LIST) is None:
        return "pack"
    return "text" if folder_problem(_data_root(data) / TEXT_SET) is None else "none"


def read_text_examples(source: TextSource, data: DataSettings, split: str) -> Subset:
    """All text-only rows of a source, which is not ``auto``; a pack has no splits.

    Raises:
        InputError: a file is missing or malformed.
    """
    if source == "none":
        return Subset.whole([])
    if source == "pack":
        return Subset.whole(text_rows(load_pack_text(_pack_root(data))))
    return Subset.whole(text_rows(load_text(embedded_data_root() if source == "embedded" else _data_root(data), split)))


def split_pack_text(data: DataSettings) -> tuple[Subset, Subset]:
    """The pack's text-only rows to protect, a fifth of their clusters, and those to evaluate on, the others.

    Raises:
        InputError: the list is missing or malformed, or all rows are of one cluster.
    """
    return read_text_examples("pack", data, "").split(RETENTION_RATIO, of="texts")


def _clips(source: AudioSource, data: DataSettings, split: str) -> list[AudioRecord]:
    if source == "pack":
        return load_pack_clips(_pack_root(data))
    if source == "embedded":
        return load_audiocaps(embedded_data_root(), split)
    return _READERS[source](_data_root(data), split)


def _questions(source: VLSource, data: DataSettings, split: str) -> list[VQARecord]:
    if source == "pack":
        return load_pack_questions(_pack_root(data))
    return load_vqa(embedded_data_root() if source == "embedded" else _data_root(data), split)


def _data_root(data: DataSettings) -> Path:
    """The data folder; the procedural data are written if they are asked for and not there yet."""
    return embedded_data_root() if data.root == EMBEDDED_DATA else Path(data.root).expanduser()


def _pack_root(data: DataSettings) -> Path:
    assert data.pack_root is not None  # the configuration sees to it
    return Path(data.pack_root).expanduser()
