"""Figures belong to the weights that they were measured on; beside any others they are left out, and that is said."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from safe_train.huggingface.configuration import SafeConfig
from safe_train.io.fingerprints import tensors_sha256

OTHER_WEIGHTS = "these weights have not been evaluated (they differ from the evaluated ones)"
UNBOUND = (
    "these weights have not been evaluated, as far as can be shown: the figures that came with them do not say which "
    "weights they were measured on"
)

# Beside the weights, what an adapter's answers depend on.
_SETTINGS = (
    "base_model",
    "base_revision",
    "base_sha256",
    "audio_encoders",
    "audio_features",
    "audio_seconds",
    "audio_windows",
    "audio_level_db",
    "adapter",
    "gate",
)


def bind(config: SafeConfig) -> None:
    """Notes in the figures, which name the digest of their weights, the settings that they were measured with."""
    if config.retention is not None:
        config.retention["settings"] = {name: copy.deepcopy(getattr(config, name)) for name in _SETTINGS}


def why_stale(config: SafeConfig, tensors: Mapping[str, Tensor]) -> str:
    """Why the configuration's figures are not those of these weights, in one clause; empty if they are or are none.

    Args:
        config: of the adapter.
        tensors: the trained parts by the names of ``SafeModel.trainable_parameters``, which the evaluation hashes too.
    """
    figures: Mapping[str, Any] | None = config.retention
    if figures is None:
        return ""
    if not figures.get("weights_sha256"):
        return UNBOUND
    if figures["weights_sha256"] != tensors_sha256(tensors.items()):
        return OTHER_WEIGHTS
    for name, measured in figures.get("settings", {}).items():
        if getattr(config, name) != measured:
            return f"this adapter has not been evaluated as it is: {name} was another when it was"
    return ""


def with_own_figures(config: SafeConfig, tensors: Mapping[str, Tensor]) -> SafeConfig:
    """The configuration as it may be written beside these weights: with figures that are theirs, or with none."""
    reason = why_stale(config, tensors)
    told = copy.deepcopy(config)
    if reason:
        told.retention, told.not_evaluated = None, reason
    elif told.retention is not None:
        told.not_evaluated = None
    return told
