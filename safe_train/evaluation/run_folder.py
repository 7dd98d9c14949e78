"""Where the answers and results of a run's evaluations are kept.

``RUN/evaluation/base-<key>/`` holds the base's answers, ``RUN/evaluation/<key>/`` SAFE's and ``results.json``. A folder
is named after the digest of what its answers depend on: answers of other weights, rows or settings are never mixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from safe_train.data.rows import Row
from safe_train.evaluation.key import folder_name
from safe_train.evaluation.results import Evaluation
from safe_train.evaluation.samples import SampleStore
from safe_train.files import json_text, write_text
from safe_train.parallel import ALONE, Processes

EVALUATIONS = "evaluation"
RESULTS = "results.json"


def base_store(
    run: Path, key: Mapping[str, Any], vl: Sequence[Row], processes: Processes = ALONE, text: Sequence[Row] = ()
) -> SampleStore:
    """The store of the base's answers."""
    return SampleStore.create(run / EVALUATIONS / f"base-{folder_name(key)}", key, vl, (), processes, text)


def safe_store(
    run: Path,
    key: Mapping[str, Any],
    vl: Sequence[Row],
    audio: Sequence[Row],
    processes: Processes = ALONE,
    text: Sequence[Row] = (),
) -> SampleStore:
    """The store of SAFE's answers."""
    return SampleStore.create(run / EVALUATIONS / folder_name(key), key, vl, audio, processes, text)


def write_results(store: SampleStore, key: Mapping[str, Any], base: SampleStore, evaluation: Evaluation) -> None:
    """Writes ``results.json``: the key, the folder of the base's answers, and every figure.

    Conditions that an earlier evaluation with the same key has measured, and this one has not, stay. Audio rows that
    it scored by another metric do not: their figures cannot stand beside these. Their answers stay, so that evaluating
    these conditions again takes no time.
    """
    path = store.folder / RESULTS
    figures = evaluation.to_dict()
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))["evaluation"]
        same_metric = earlier.get("audio_metric", "exact_match") == figures["audio_metric"]
        parts = ("vl", "text", "documents", *(("audio", "audio_gain") if same_metric else ()))
        figures |= {part: earlier.get(part, {}) | figures[part] for part in parts}
    content = {
        "key": dict(key),
        "base_answers": base.folder.name,
        "evaluation": figures,
        "finished_at": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    write_text(path, json_text(content))
