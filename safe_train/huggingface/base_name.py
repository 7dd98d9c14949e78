"""Under which names base and audio encoders of a run are published: their own, or for folders those of the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoModelForImageTextToText

from safe_train.config import StageAConfig
from safe_train.configs.model_configs import EMBEDDED
from safe_train.errors import InputError
from safe_train.io.fingerprints import tensors_sha256
from safe_train.model.folders import FOREIGN_ERRORS, read_model_config
from safe_train.model.loading import load_base
from safe_train.training.build import precision_dtype

_PART = r"[A-Za-z0-9._-]+"
_HUB_ID = re.compile(rf"{_PART}(/{_PART})?")
_REVISION = re.compile(rf"{_PART}(/{_PART})*")  # refs/pr/1 is one


def is_hub_id(source: str) -> bool:
    """Whether a source reads as ``name`` or ``owner/name`` and is neither the package's own base nor a folder here."""
    return source != EMBEDDED and not Path(source).exists() and _reads_as_hub_id(source)


def published_base(
    run: StageAConfig, base: Mapping[str, Any], name: str | None, revision: str | None
) -> tuple[str, str | None]:
    """The base's name, and the digest of its parameters where that name is another than the run's.

    Args:
        run: the run's settings.
        base: its source and the digest of its parameters, as the evaluation's key has them.
        name: by which it is to be known, if not by its own.
        revision: of it on the hub.

    Raises:
        InputError: the name or the revision is none, or names what cannot be this base.
    """
    source = str(base["source"])
    if name is not None:
        _check_name(name)
    if revision is not None:
        _check_revision(revision)
        if not is_hub_id(source) and name is None:
            hint = "leave it out, or name the base with --base-model"
            raise InputError("--base-revision", "a base on the hub", f"the run's base {source}", hint)
    if name is None or name == source:
        return source, None
    if is_hub_id(source):
        raise InputError("--base-model", f"the run's own base {source}", name, "leave it out")
    if source == EMBEDDED or base["sha256"] == _embedded_sha256(run):
        got = f"{name} for a run whose base is the embedded one"
        raise InputError("--base-model", "the base that the run was trained with", got, "leave it out")
    known, own = _shapes_of(name, revision), _shapes_of(source, None)
    if known is not None and own is not None and known != own:
        got = f"{name}, which has {_difference(known, own)}"
        raise InputError("--base-model", f"a model of the same shapes as the run's base {source}", got, "leave it out")
    return name, str(base["sha256"])


def published_encoders(sources: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names of the audio encoders.

    Args:
        sources: where the run loaded them from.
        names: by which they are to be known, in the same order; none for their own.

    Raises:
        InputError: these are not as many, or one is no name or that of another model.
    """
    if names and len(names) != len(sources):
        expected = f"a name for each of {len(sources)} audio encoders"
        raise InputError("--audio-encoder", expected, str(len(names)), "give it once for each, in their order")
    for source, name in zip(sources, names, strict=False):
        _check_name(name, "--audio-encoder")
        if name != source and (source == EMBEDDED or is_hub_id(source)):
            raise InputError("--audio-encoder", f"the run's own audio encoder {source}", name, "leave it out")
    return list(names or sources)


def _reads_as_hub_id(text: str) -> bool:
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return bool(_HUB_ID.fullmatch(text))


def _check_name(name: str, option: str = "--base-model") -> None:
    if not _reads_as_hub_id(name):
        expected = "a hub id, name or owner/name, of letters, digits, dots, hyphens and underscores"
        raise InputError(option, expected, repr(name), "correct it")


def _check_revision(revision: str) -> None:
    if not _REVISION.fullmatch(revision) or ".." in revision:  # as git has it, too
        expected = "a branch, tag or commit of letters, digits, dots, hyphens and underscores"
        raise InputError("--base-revision", expected, repr(revision), "correct it")


def _embedded_sha256(run: StageAConfig) -> str:
    """Digest of the package's own base in the run's precision, of which somebody may have a copy in a folder."""
    return tensors_sha256(load_base(EMBEDDED, dtype=precision_dtype(run)).model.named_parameters())


def _shapes_of(source: str, revision: str | None) -> dict[str, Any] | None:
    """Model type and the shape of every parameter; None where its configuration is not on this machine or unknown."""
    path: Any = Path(source) / "config.json"
    if not path.is_file():
        path = try_to_load_from_cache(source, "config.json", revision=revision) if _reads_as_hub_id(source) else None
    if not isinstance(path, (str, Path)):
        return None
    try:
        config = read_model_config(str(Path(path).parent))
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (InputError, *FOREIGN_ERRORS):
        return None
    shapes = {parameter: tuple(tensor.shape) for parameter, tensor in model.named_parameters()}
    return {"model_type": config.model_type} | shapes


def _difference(known: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The first thing in which two models differ."""
    name = next(name for name in [*own, *known] if known.get(name) != own.get(name))
    return f"{name} {known.get(name, 'missing')} in place of {own.get(name, 'none')}"
