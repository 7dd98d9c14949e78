"""From a run's newest checkpoint to a folder that Hugging Face classes load; neither base nor encoders are loaded."""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from transformers.utils import CONFIG_NAME

from safe_train.configs.model_configs import EMBEDDED
from safe_train.errors import InputError
from safe_train.huggingface.adapter_files import write_adapter
from safe_train.huggingface.base_name import is_hub_id, published_base, published_encoders
from safe_train.huggingface.binding import bind
from safe_train.huggingface.configuration import SafeConfig
from safe_train.huggingface.results import evaluated_run, retention_figures
from safe_train.io.files import read_object, staged_folder
from safe_train.io.fingerprints import tensors_sha256
from safe_train.model.safe_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterConfig
from safe_train.runs.checkpoint import latest_checkpoint
from safe_train.runs.layout import read_config

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Publication:
    """What the person who publishes knows and the run does not.

    Attributes:
        base_model: hub id of the base, if the run loaded it from a folder.
        base_revision: branch, tag or commit of it.
        audio_encoders: hub ids of the audio encoders, if the run loaded one from a folder.
        license: of the adapter, as the hub writes it.
    """

    base_model: str | None = None
    base_revision: str | None = None
    audio_encoders: tuple[str, ...] = ()
    license: str = "unknown"


def _require_free(folder: Path, *, overwrite: bool) -> None:
    """InputError if the folder holds anything; with ``overwrite``, if it holds anything but an earlier export."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    got = "one with files" if folder.is_dir() else "something else of this name"
    if not overwrite:
        raise InputError(folder, "a new or empty folder", got, "name another, or --overwrite an earlier export")
    try:
        is_export = read_object(folder / CONFIG_NAME, "", "").get("model_type") == SafeConfig.model_type
    except InputError:
        is_export = False
    if not is_export or folder.is_symlink():
        raise InputError(folder, "an earlier export, a new folder or an empty one", got, "name another")


def export_run(
    run: Path, folder: Path, publication: Publication | None = None, *, overwrite: bool = False
) -> SafeConfig:
    """Writes the adapter of a finished run with a model card that carries the run's retention results.

    Args:
        run: the run.
        folder: is made.
        publication: what the run does not know.
        overwrite: whether the folder may be an earlier export, which is replaced whole.

    Raises:
        InputError: the run is not finished, its checkpoint was not evaluated, the folder is there already, or the base
            is to be published under the name of another.
    """
    given = publication or Publication()
    _require_free(folder, overwrite=overwrite)
    checkpoint = latest_checkpoint(run)
    hint = "go back to an older checkpoint"
    described = read_object(checkpoint.folder / ADAPTER_CONFIG, "the description of the trained parts", hint)
    settings, tensors = read_config(run), load_file(checkpoint.folder / ADAPTER_WEIGHTS)
    evaluated = evaluated_run(run, checkpoint.step, tensors_sha256(tensors.items()))
    figures, base = retention_figures(evaluated), evaluated.evaluation.key["base"]
    base_model, base_sha256 = published_base(settings, base, given.base_model, given.base_revision)
    encoders = published_encoders(described["audio_encoders"], given.audio_encoders)
    for option, source in (("--base-model", base_model), *(("--audio-encoder", encoder) for encoder in encoders)):
        if source != EMBEDDED and not is_hub_id(source):
            logger.warning(
                "%s is found on this machine alone, and its path is published; name it by %s", source, option
            )
    config = SafeConfig(
        base_model=base_model,
        base_revision=given.base_revision,
        base_sha256=base_sha256,
        audio_encoders=encoders,
        audio_features=described["audio_features"],
        audio_seconds=[settings.model.audio_seconds] * len(described["audio_encoders"]),
        audio_windows=settings.model.audio_windows if settings.model.audio_windows > 1 else None,
        audio_level_db=settings.model.audio_level_db,
        adapter={
            field.name: described[field.name] for field in dataclasses.fields(AdapterConfig) if field.name in described
        },
        gate=figures["gate"],
        license=given.license,
        retention=figures,
        dtype=_DTYPES[settings.precision],
        architectures=["SafeForConditionalGeneration"],
    )
    bind(config)
    try:
        with staged_folder(folder) as staging:  # whole or absent, so that it can be tried again
            write_adapter(staging, config, tensors)
    except InputError as error:
        raise InputError(folder, error.expected, error.got, error.hint) from error
    return config
