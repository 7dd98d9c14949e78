"""A pack made from the procedural data by the commands' own functions, for machines without data."""

from __future__ import annotations

import tempfile
from pathlib import Path

from experiments.overfitting.create_subset_manifest import draw_clips
from experiments.overfitting.create_val_manifest import draw_questions
from experiments.overfitting.package_subset import package_subset
from safe_train.data.datasets.manifest import find_manifest
from safe_train.data.datasets.text import TEXT_SET
from safe_train.embedded.dataset import embedded_data_root
from safe_train.errors import InputError
from safe_train.io.files import json_text, write_text

NUM_CLIPS = 400
NUM_QUESTIONS = 500


def embedded_pack_root() -> Path:
    """The folder of the pack, beside the procedural data; made at first use.

    Raises:
        InputError: it cannot be written.
    """
    data = embedded_data_root()
    pack = data.with_name(data.name.replace("embedded-data", "embedded-pack"))
    if not pack.is_dir():
        _make(data, pack)
    return pack


def _make(data: Path, pack: Path) -> None:
    subtype = "val2014"
    clips = draw_clips(data / "audiocaps", "train", NUM_CLIPS, seed=42)
    questions = draw_questions(
        data / "vqa" / f"v2_OpenEnded_mscoco_{subtype}_questions.json",
        data / "vqa" / f"v2_mscoco_{subtype}_annotations.json",
        NUM_QUESTIONS,
        seed=123,
    )
    with tempfile.TemporaryDirectory(prefix=f"{pack.name}-", dir=pack.parent) as folder:
        lists = Path(folder, "clips.json"), Path(folder, "questions.json")
        for path, manifest in zip(lists, (clips, questions), strict=True):
            write_text(path, json_text(manifest.to_dict()))
        made = Path(folder, "pack")
        package_subset(lists[0], data / "audiocaps", made, lists[1], find_manifest(data / TEXT_SET, TEXT_SET, "val"))
        try:
            made.rename(pack)
        except OSError as error:
            # The tasks of a job array start together: another may have been faster and read its pack already.
            if not pack.is_dir():
                hint = "set SAFE_CACHE to another"
                raise InputError(pack, "a folder that can be written", str(error), hint) from error
