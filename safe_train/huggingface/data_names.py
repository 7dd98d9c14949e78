"""By what name the data of an evaluation are published: procedural data are not the sets whose format they have."""

from __future__ import annotations

from pathlib import Path

from safe_train.data.datasets.registry import DATASETS
from safe_train.data.procedural import are_made_clips, are_made_images
from safe_train.data.settings import AUTO_SOURCE, EMBEDDED_DATA, TRAINED_SOURCE
from safe_train.evaluation.predictions import Kind, PredictionStore
from safe_train.report.runs import Run

PROCEDURAL = "procedural"


def data_names(run: Run) -> dict[str, str]:
    """The names of VL, text-only and audio examples, their ``split``, and that of the first two where it is another.

    An evaluation may have had another data root than the run, so the stored rows decide: by the folder that their
    images and clips lie in, by the header of its question file, and by the names of the clips.

    Raises:
        InputError: the stored rows cannot be read.
    """
    data, evaluation = run.config.data, run.evaluation
    images = _files(PredictionStore(evaluation.base_folder), "vl", "image")
    clips = _files(PredictionStore(evaluation.folder), "audio", "audio")
    trained = " and ".join(part.source for part in data.train_audio_mixture) or data.train_audio_source
    audio = trained if data.val_audio_source == TRAINED_SOURCE else data.val_audio_source
    made = data.val_vl_source == EMBEDDED_DATA or are_made_images(images)
    beside = data.val_vl_source if "text" in DATASETS[data.val_vl_source].readers else "text"
    text = beside if data.val_text_source == AUTO_SOURCE else data.val_text_source
    return {
        "vl": PROCEDURAL if made else data.val_vl_source,
        "text": PROCEDURAL if text == EMBEDDED_DATA or (made and text == "text") else text,
        "audio": PROCEDURAL if audio == EMBEDDED_DATA or are_made_clips(clips) else audio,
        "split": data.val_split,
    } | ({"vl_split": data.val_vl_split} if data.val_vl_split else {})


def _files(store: PredictionStore, kind: Kind, column: str) -> list[Path]:
    """The files that stored rows name; of noise and the like there are none."""
    return [Path(str(row[column])) for row in store.rows(kind).values() if row[column]]
