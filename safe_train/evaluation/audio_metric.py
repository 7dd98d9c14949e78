"""How answers to audio rows are scored: exact match, and for captions in free words a measure of likeness."""

from __future__ import annotations

from collections.abc import Sequence

from safe_train.data.example import CAPTION, Example
from safe_train.errors import InputError
from safe_train.evaluation.predictions import Prediction
from safe_train.metrics.captions import cider_d, require_aac_metrics
from safe_train.metrics.vqa_accuracy import normalize_answer

AUDIO_METRICS = {"exact_match": "exact match", "token_f1": "token F1", "cider_d": "CIDEr-D"}
"""How answers to audio rows are scored, by the name in results, in words."""

CLOSED = 0.2
"""Captions are a closed set while there are at most this many different ones a row: a model can then name them."""

_CIDER_D_RANGE = 10.0


def resolve_audio_metric(asked: str, evaluated: Sequence[Example], known: Sequence[Example] = ()) -> str:
    """The metric of a setting: what ``auto`` stands for, and whether the others can be computed.

    ``auto`` is exact match, unless captions are in free words: then the chance to say one word for word is close to 0
    however well a model hears, and it is token F1. Captions are a closed set, as those of a classifier would be, while
    the different first references are at most a fifth of the caption rows.

    Args:
        asked: ``auto``, ``exact_match``, ``token_f1`` or ``cider_d``.
        evaluated: the audio rows that are evaluated.
        known: further audio rows of the same data, such as those trained on; the more there are, the surer a closed set
            is told from free words.

    Raises:
        InputError: CIDEr-D is asked for with fewer than two captions, or aac-metrics is not installed.
    """
    if asked == "cider_d":
        captions = len(_caption_ids(evaluated))
        if captions < 2:
            expected = "at least two audio rows that ask for a caption"
            raise InputError("evaluation.audio_metric=cider_d", expected, str(captions), "choose token_f1")
        require_aac_metrics()
    if asked != "auto":
        return asked
    if not any(row.kind == CAPTION for row in evaluated):
        return "exact_match"
    captions = [normalize_answer(row.answers[0]) for row in (*evaluated, *known) if row.kind == CAPTION]
    return "exact_match" if len(set(captions)) <= CLOSED * len(captions) else "token_f1"


def audio_scores(samples: Sequence[Prediction], rows: Sequence[Example], metric: str) -> list[float]:
    """The score of each sample in 0..1.

    Captions are scored by ``metric``; questions beside them by exact match, since one word says it all. Where no row
    asks for a caption, all are scored by ``metric``. CIDEr-D runs from 0 to 10 and is divided by 10; it weighs n-grams
    by the references of all rows, so that it is computed from all samples of a condition and not batch by batch.
    """
    if metric == "exact_match":
        return [sample.score for sample in samples]
    by_metric = _caption_ids(rows) or {row.row_id for row in rows}
    chosen = [sample for sample in samples if sample.row_id in by_metric]
    if metric == "token_f1":
        values = [sample.token_f1 or 0.0 for sample in chosen]
    else:
        references = {row.row_id: row.answers for row in rows}
        found = cider_d([sample.answer for sample in chosen], [references[sample.row_id] for sample in chosen])
        values = [min(1.0, max(0.0, value / _CIDER_D_RANGE)) for value in found.per_sample]
    scores = dict(zip((sample.row_id for sample in chosen), values, strict=True))
    return [scores.get(sample.row_id, sample.score) for sample in samples]


def _caption_ids(rows: Sequence[Example]) -> set[str]:
    return {row.row_id for row in rows if row.kind == CAPTION}
