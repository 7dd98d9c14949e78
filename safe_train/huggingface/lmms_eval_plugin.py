"""Tells lmms-eval, which asks the entry points of ``lmms_eval.models``, what SAFE's model is called and where it is."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The ``ModelManifest`` of the model ``safe``; lmms-eval calls this, so it is installed."""
    from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

    module = "safe_train.huggingface.lmms_eval_model"
    return ModelManifest(
        model_id="safe",
        simple_class_path=f"{module}.SafeSimple",
        chat_class_path=f"{module}.SafeChat",
        aliases=("safe_audio",),
    )
