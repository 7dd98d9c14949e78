"""The configuration of a published SAFE adapter: which models it belongs to, and what was measured with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import PretrainedConfig

from safe_train.configs.model_configs import EMBEDDED
from safe_train.errors import InputError
from safe_train.model.safe_model import AdapterConfig

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""Options of ``from_pretrained`` that say how a file is fetched."""

_MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


class SafeConfig(PretrainedConfig):
    """What SAFE consists of; the weights beside it are the adapter's alone.

    Attributes:
        base_model: hub id or local folder of the vision-language model; ``"embedded"`` is the one in the package.
        base_revision: branch, tag or commit of it; None is the default branch.
        audio_encoders: hub id or local folder of each audio encoder.
        audio_features: ``pooled`` or ``grid`` for each encoder; None is each encoder's own.
        audio_seconds: for each encoder, the most that is heard of a clip, from its start; None is the default.
        audio_windows: how many of its own windows an encoder hears at most; None for one.
        audio_level_db: level in dB of full scale that a clip is brought to before it is encoded; None for none.
        adapter: the fields of :class:`~safe_train.model.AdapterConfig`.
        gate: scalar in [0, 1] on the fusion; 0 is the base.
        license: license of the adapter, as the hub writes it.
        retention: figures of the run it comes from (see :mod:`safe_train.huggingface.results`), or None.
        not_evaluated: why there are no figures, where an earlier version of the adapter had some; else None.
        base_sha256: digest of the base's parameters, where the base was a folder and ``base_model`` is the name under
            which its author publishes it; else None.
    """

    model_type = "safe"

    def __init__(
        self,
        base_model: str = EMBEDDED,
        base_revision: str | None = None,
        audio_encoders: Sequence[str] = (EMBEDDED,),
        audio_features: Sequence[str] | None = None,
        audio_seconds: Sequence[float] | None = None,
        audio_windows: int | None = None,
        audio_level_db: float | None = None,
        adapter: Mapping[str, Any] | None = None,
        gate: float = 1.0,
        license: str = "unknown",
        retention: Mapping[str, Any] | None = None,
        not_evaluated: str | None = None,
        base_sha256: str | None = None,
        **options: Any,
    ) -> None:
        self.base_model = base_model
        self.base_revision = base_revision
        self.audio_encoders = list(audio_encoders)
        self.audio_features = None if audio_features is None else list(audio_features)
        self.audio_seconds = None if audio_seconds is None else list(audio_seconds)
        self.audio_windows = audio_windows
        self.audio_level_db = audio_level_db
        self.adapter = None if adapter is None else dict(adapter)
        self.gate = gate
        self.license = license
        self.retention = None if retention is None else dict(retention)
        self.not_evaluated = not_evaluated
        self.base_sha256 = base_sha256
        super().__init__(**options)

    @property
    def adapter_config(self) -> AdapterConfig:
        """Shape of the trained parts.

        Raises:
            InputError: there is none, or it is not one of this version.
        """
        try:
            values: dict[str, Any] = dict(self.adapter or {})
            values["fusion_layers"] = tuple(values["fusion_layers"])
            return AdapterConfig(**values)
        except (KeyError, TypeError) as error:
            names = ", ".join(field.name for field in dataclasses.fields(AdapterConfig))
            hint = "export the run again: safe export RUN FOLDER"
            raise InputError("SafeConfig.adapter", f"the shape of an adapter ({names})", str(error), hint) from error

    @property
    def audio_options(self) -> list[dict[str, Any]]:
        """For each audio encoder, what :func:`~safe_train.model.load_audio_encoder` is to be told."""
        kinds = self.audio_features or [None] * len(self.audio_encoders)
        seconds = self.audio_seconds or [None] * len(self.audio_encoders)
        return [
            {
                name: value
                for name, value in (
                    ("features", kind),
                    ("seconds", length),
                    ("windows", self.audio_windows),
                    ("level_db", self.audio_level_db),
                )
                if value is not None
            }
            for kind, length in zip(kinds, seconds, strict=True)
        ]

    @property
    def base_folder(self) -> str:
        """Where the base is loaded from: its source, or of a named revision the local copy."""
        if self.base_revision is None or self.base_model == EMBEDDED or Path(self.base_model).is_dir():
            return self.base_model
        return snapshot_download(self.base_model, revision=self.base_revision, allow_patterns=_MODEL_FILES)

    @property
    def base_dtype(self) -> torch.dtype:
        """Precision of the frozen base and encoders; the trained parts are float32 whatever it is."""
        dtype = self.dtype
        return dtype if isinstance(dtype, torch.dtype) else torch.float32
