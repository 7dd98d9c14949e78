"""Checks a model folder and its configuration before transformers reads them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from safe_train.errors import InputError

FOREIGN_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, SafetensorError, StrictDataclassError, TemplateError,
)  # fmt: skip
"""What libraries raise while they work with files that do not fit together; they name no fewer."""

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_LAYERS = 10_000  # far more than any model has; a thousand million would be built for hours
_MOST_MISSING = 4  # times as many parameters as weights; an audio model may lack a decoder that is larger than it
_LARGEST_SIZE = 2**24  # of a vocabulary or a width; tables of more take memory that no machine has


@contextmanager
def as_input_error(where: str | Path, expected: str, hint: str) -> Iterator[None]:
    """Whatever a library raises inside the block becomes one line about the files that it was working with.

    Raises:
        InputError: in place of any of ``FOREIGN_ERRORS``.
    """
    try:
        yield
    except InputError:
        raise
    except torch.OutOfMemoryError as error:
        smaller = "choose a smaller base, precision=bf16, or model.quantization=4bit"
        raise InputError(where, "a model that the GPU's memory holds", in_short(error), smaller) from error
    except FOREIGN_ERRORS as error:
        raise InputError(where, expected, in_short(error), hint) from error


def in_short(error: BaseException) -> str:
    """The first line of an error's text, behind its kind where that says more than the text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, StrictDataclassError):  # which field in the first line, what is wrong with it in the second
        return " ".join(lines[:2])
    if isinstance(error, (OSError, ImportError, SafetensorError)) and lines:
        return lines[0]
    return ": ".join([type(error).__name__, *lines[:1]])


def check_folder(folder: str, what: str, *, with_weights: bool = True) -> None:
    """A path-like source must be a model folder; this catches the common slips before transformers does.

    Args:
        folder: local folder or hub id.
        what: what it is to hold.
        with_weights: whether its weights are wanted too.

    Raises:
        InputError: it is none, or an index of weights in it names anything but safetensors beside it.
    """
    path = Path(folder)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(path, f"a folder with the config.json of {what}", "none", "point to the model's folder")
        if with_weights and not any(path.glob("*.safetensors")):
            raise InputError(path, "*.safetensors weights", "none", "copy the weights there, converted to safetensors")
    elif path.is_absolute() or folder.startswith((".", "~")) or len(path.parts) > 2:  # ids are owner/name at most
        raise InputError(folder, f"the folder of {what}", "no such folder", "correct the path, or give a hub id")
    if with_weights and (index := _index_of(folder)) is not None:
        _check_index(index)


def read_model_config(folder: str) -> Any:
    """The configuration of a model, whose sizes a machine can hold, and without a say in how attention is computed.

    A ``config.json`` may name an implementation of attention that is fetched from a hub and run.

    Raises:
        InputError: a size is beyond reason.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    _check_sizes(config.to_dict(), folder)
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            part._attn_implementation = part._experts_implementation = None
    return config


def load_weights(model_class: Any, folder: str, config: Any, **options: Any) -> tuple[Any, list[str], list[str]]:
    """Loads a model only from safetensors, without code of its own.

    Also returns the names of its parameters without stored weights, and of stored weights without a parameter.

    Args:
        model_class: its class, or an Auto class.
        folder: local folder or hub id.
        config: its configuration.
        options: of ``from_pretrained``.

    Raises:
        InputError: the configuration is that of a far larger model than the weights are of.
    """
    if getattr(config, "quantization_config", None) is None and (files := _weight_files(folder)):
        _check_amount(model_class, folder, files, config)
    model, report = model_class.from_pretrained(
        folder, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
    )
    return model, sorted(report["missing_keys"]), sorted(report["unexpected_keys"])


def _weight_files(folder: str) -> list[Path]:
    """The safetensors of a model, fetched from the hub as transformers would do next; none where it has none."""
    if Path(folder).is_dir():
        return sorted(Path(folder).glob("*.safetensors"))
    index = _index_of(folder)
    names = [_WEIGHTS] if index is None else _check_index(index)
    files = [path for name in names if (path := _fetch(folder, name)) is not None]
    return files if len(files) == len(names) else []


def _check_amount(model_class: Any, folder: str, files: Sequence[Path], config: Any) -> None:
    """Transformers would fill what is missing with random numbers, for hours if it is much."""
    build = getattr(model_class, "from_config", None) or model_class._from_config
    with torch.device("meta"):
        needed = sum(parameter.numel() for parameter in build(copy.deepcopy(config)).parameters())
    stored = 0
    for path in files:
        with safe_open(path, "pt") as file:
            stored += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    if needed > _MOST_MISSING * stored:
        expected = f"weights for the {needed:,} parameters of config.json"
        raise InputError(folder, expected, f"{stored:,} numbers", "copy the model's folder again")


def missing_weights(folder: str, names: Sequence[str]) -> InputError:
    """Weights that a folder does not have, in one line."""
    got = f"none for {names[0]} ({len(names)} missing)"
    return InputError(folder, "weights for every parameter", got, "copy the model's folder again")


def _index_of(folder: str) -> Path | None:
    """The index of a model in several files, fetched from the hub if it is there; None for a model in one."""
    if Path(folder).is_dir():
        path = Path(folder) / _INDEX
        return path if path.exists() else None
    return _fetch(folder, _INDEX)


def _fetch(hub_id: str, name: str) -> Path | None:
    """A file of the hub or its cache; None if it is not there, or cannot be had."""
    try:
        return Path(hf_hub_download(hub_id, name))
    except (EntryNotFoundError, LocalEntryNotFoundError, HFValidationError, OSError):
        return None  # whatever else is the matter, transformers will find and name it


def _check_index(index: Path) -> list[str]:
    """The files that an index names; transformers opens whatever it is, pickled files elsewhere too."""
    expected = "an index whose weights are *.safetensors files beside it"
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(index, expected, in_short(error), "copy the model's folder again") from error
    for name in sorted(names, key=str):
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise InputError(index, expected, repr(name), "convert the weights, and write the index anew")
    return sorted(names)


def _check_sizes(values: Mapping[str, Any], folder: str, prefix: str = "") -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _check_sizes(value, folder, f"{prefix}{name}.")
        if not isinstance(value, int):
            continue
        limit = _MOST_LAYERS if "layers" in name or name == "depth" else _LARGEST_SIZE
        if name.endswith(("_size", "layers", "depth", "_dim")) and value > limit:
            expected = f"a model with {prefix}{name} of at most {limit}"
            raise InputError(Path(folder) / "config.json", expected, str(value), "copy the model's folder again")
