"""The fingerprint of everything that answers depend on; equal fingerprints give equal answers on a CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from safe_train.config import StageAConfig
from safe_train.data.example import Example
from safe_train.evaluation.answer_lengths import AnswerLengths
from safe_train.evaluation.predictions import row_files
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.io.fingerprints import json_sha256, tensors_sha256, versions
from safe_train.model.base import Base
from safe_train.model.generation import own_settings
from safe_train.model.safe_model import SafeModel


def rows_sha256(examples: Sequence[Example]) -> str:
    """SHA-256 over everything that the examples say; files count by their paths."""
    return hashlib.sha256(json.dumps([asdict(example) for example in examples], default=str).encode()).hexdigest()


def files_sha256(examples: Sequence[Example]) -> str:
    """SHA-256 over the contents of the examples' images and clips: files may be replaced under the same paths.

    Raises:
        InputError: a file cannot be read.
    """
    return json_sha256([row_files(example) for example in examples])


def base_key(
    config: StageAConfig, base: Base, vl: Sequence[Example], lengths: AnswerLengths, text: Sequence[Example] = ()
) -> dict[str, Any]:
    """What the base's answers depend on; call it before anything is attached to the base.

    Without text-only examples it names none.

    Raises:
        InputError: a file of an example cannot be read.
    """
    settings: EvaluationSettings = config.evaluation
    of_text = {"text_rows_sha256": rows_sha256(text), "text_max_new_tokens": lengths.text} if text else {}
    # Once, answers depended on these; where there are some, such answers are not found any more.
    overruled = {"overruled": own} if (own := own_settings(base)) else {}
    return {
        "base": {"source": base.source, "sha256": tensors_sha256(base.model.named_parameters())},
        "vl_rows_sha256": rows_sha256(vl),
        "vl_files_sha256": files_sha256(vl),
        "batch_size": settings.batch_size,
        "max_new_tokens": lengths.vl,
        "precision": config.precision,
        "versions": versions(),
        **of_text,
        **overruled,
    }


def evaluation_key(
    base: Mapping[str, Any],
    config: StageAConfig,
    model: SafeModel,
    audio: Sequence[Example],
    lengths: AnswerLengths,
    *,
    step: int,
    damage: float,
) -> dict[str, Any]:
    """What SAFE's answers depend on: what the base's do, the trained parts, the encoders and the audio examples.

    The gate is named where it is not fully open, the longest answer to audio examples where it is not that to VL
    examples.
    """
    unusual: dict[str, Any] = {"gate": config.evaluation.gate} if config.evaluation.gate != 1.0 else {}
    if lengths.audio != lengths.vl:
        unusual["audio_max_new_tokens"] = lengths.audio
    return {
        **base,
        "variant": config.variant,
        "seed": config.seed,
        "step": step,
        "damage": damage,
        "trained_parts_sha256": tensors_sha256(model.trainable_parameters().items()),
        "audio_encoders": [
            {"source": encoder.source, "sha256": tensors_sha256(encoder.named_parameters())}
            for encoder in model.encoders
        ],
        "audio_rows_sha256": rows_sha256(audio),
        "audio_files_sha256": files_sha256(audio),
        **unusual,
    }


def folder_name(key: Mapping[str, Any]) -> str:
    """Folder name of a fingerprint: twelve hexadecimal digits of its digest."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
