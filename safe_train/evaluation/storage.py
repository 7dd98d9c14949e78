"""Writes and reads the answers and results of a run's evaluations.

``RUN/evaluation/base-<key>/`` holds the base's answers, ``RUN/evaluation/<key>/`` SAFE's and ``results.json``. A folder
is named by the fingerprint of its answers: answers of different weights, examples or settings are never mixed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from safe_train.data.example import Example
from safe_train.distributed.processes import ALONE, Processes
from safe_train.errors import InputError
from safe_train.evaluation.fingerprint import folder_name
from safe_train.evaluation.predictions import PredictionStore
from safe_train.evaluation.results import Evaluation
from safe_train.io.files import json_text, read_object, write_text
from safe_train.io.fingerprints import json_sha256
from safe_train.io.records import from_plain
from safe_train.runs.layout import RunFolder

logger = logging.getLogger(__name__)

RESULTS = "results.json"

_DIGEST = "sha256"


def base_store(
    run: Path, key: Mapping[str, Any], vl: Sequence[Example], processes: Processes = ALONE, text: Sequence[Example] = ()
) -> PredictionStore:
    """The store of the base's answers."""
    return PredictionStore.create(RunFolder(run).evaluations / f"base-{folder_name(key)}", key, vl, (), processes, text)


def safe_store(
    run: Path,
    key: Mapping[str, Any],
    vl: Sequence[Example],
    audio: Sequence[Example],
    processes: Processes = ALONE,
    text: Sequence[Example] = (),
) -> PredictionStore:
    """The store of SAFE's answers."""
    return PredictionStore.create(RunFolder(run).evaluations / folder_name(key), key, vl, audio, processes, text)


def write_results(
    store: PredictionStore, key: Mapping[str, Any], base: PredictionStore, evaluation: Evaluation
) -> None:
    """Writes ``results.json``: the key, the folder of the base's answers, and every figure.

    Conditions that an earlier evaluation with the same key has measured, and this one has not, stay. Audio examples
    that it scored by another metric do not: their figures cannot stand beside these. Their answers stay, so that
    evaluating these conditions again takes no time. Caption metrics stay where they were not asked for again of as many
    examples.
    """
    figures = evaluation.to_dict()
    earlier = _earlier_figures(store.folder / RESULTS)
    if earlier is not None:
        same_metric = earlier["audio_metric"] == figures["audio_metric"]
        for name, result in figures["audio"].items():
            before = earlier["audio"].get(name) if same_metric else None
            if before is not None and result["captions"] is None and before["rows"] == result["rows"]:
                result["captions"] = before["captions"]
        parts = ("vl", "text", "documents", *(("audio", "audio_gain") if same_metric else ()))
        figures |= {part: earlier[part] | figures[part] for part in parts}
    content = {
        "key": dict(key),
        "base_answers": base.folder.name,
        "evaluation": figures,
        "finished_at": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    write_text(store.folder / RESULTS, json_text(content | {_DIGEST: json_sha256(content)}))


def read_results(path: Path, *, finite: bool = False) -> dict[str, Any]:
    """What ``write_results`` has written; with ``finite``, a number that is not finite is an error.

    Raises:
        InputError: there is no such file, or it is damaged or was changed.
    """
    expected, hint = "results of this version", f"evaluate again with: safe eval {path.parents[2]}"
    content = read_object(path, expected, hint, finite=finite)
    digest = content.pop(_DIGEST, None)  # results of an earlier version have none
    if digest not in (None, json_sha256(content)):
        raise InputError(path, expected, f"{path.name} whose figures are not those that were written", hint)
    return content


def _earlier_figures(path: Path) -> dict[str, Any] | None:
    """What an earlier evaluation has measured, None if nothing that can be read."""
    if not path.exists():
        return None
    try:
        return from_plain(Evaluation, read_results(path).get("evaluation")).to_dict()
    except (InputError, ValueError) as error:
        logger.warning("%s; conditions that are not measured now are left out of it", error)
        return None
