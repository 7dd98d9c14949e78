"""By what name the data of an evaluation are published: procedural data are not the sets whose format they have."""

from __future__ import annotations

import json
from pathlib import Path

from safe_train.config import EMBEDDED_DATA
from safe_train.data.procedural import are_made_clips, are_made_images
from safe_train.errors import InputError
from safe_train.report.runs import Run

PROCEDURAL = "procedural"


def data_names(run: Run) -> dict[str, str]:
    """The names of VL, text-only and audio rows, and their split.

    An evaluation may have had another data root than the run, so the stored rows decide: by the folder that their
    images and clips lie in, by the header of its question file, and by the names of the clips.

    Raises:
        InputError: the stored rows cannot be read.
    """
    data, evaluation = run.config.data, run.evaluation
    images = _files(evaluation.base_folder / "rows.vl.jsonl", "image")
    clips = _files(evaluation.folder / "rows.audio.jsonl", "audio")
    audio = data.train_audio_source if data.val_audio_source == "trained" else data.val_audio_source
    made = data.val_vl_source == EMBEDDED_DATA or are_made_images(images)
    beside = {"vqa": "text", "pack": "pack", EMBEDDED_DATA: EMBEDDED_DATA}[data.val_vl_source]
    text = beside if data.val_text_source == "auto" else data.val_text_source
    return {
        "vl": PROCEDURAL if made else data.val_vl_source,
        "text": PROCEDURAL if text == EMBEDDED_DATA or (made and text == "text") else text,
        "audio": PROCEDURAL if audio == EMBEDDED_DATA or are_made_clips(clips) else audio,
        "split": data.val_split,
    }


def _files(path: Path, column: str) -> list[Path]:
    """The files that stored rows name; of noise and the like there are none."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [Path(str(row[column])) for row in rows if row[column]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        got = " ".join(str(error).split())
        raise InputError(path, "the rows of an evaluation", got, "evaluate the run again: safe eval RUN") from error
