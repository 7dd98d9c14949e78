"""The Stage A configuration: typed, frozen, every key known; written whole to ``config.json`` of each run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, model_validator

from safe_train.configs.model_configs import MODEL_CONFIGS
from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.data.settings import DataSettings
from safe_train.distributed.settings import ParallelSettings
from safe_train.errors import InputError, nearest
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.io.messages import shortened
from safe_train.io.yaml_files import read_yaml_mapping
from safe_train.model.settings import ModelSettings
from safe_train.retention.settings import RetentionSettings
from safe_train.settings import Section
from safe_train.training.settings import OptimizationSettings, TrackingSettings
from safe_train.variants import find_variant

DERIVED = ("effective", "versions", "machine", "notes", "job")
"""What a run's ``config.json`` says beside its settings."""

_BEFORE_IT_WAS_A_SETTING = (
    ("data", "train_text_source", "none"),
    ("data", "caption_reference", "first"),
    ("model", "audio_level_db", None),
)
"""What a run did whose configuration does not know the setting: its defaults are those of later runs."""

_OF_A_RUN = "of_a_run"
_FEW = 12  # names that still can be read in one line
_WHOLE = re.compile(r"[+-]?\d+")


class StageAConfig(Section):
    """Everything that a Stage A run depends on."""

    variant: str = "full_retention"
    """Retention variant: one that is registered or of an installed package, or one of ``variants_file``."""
    variants_file: str | None = None
    """YAML file of retention variants beside the registered ones: the fields of each by its name."""
    label: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """What the run's folder is named after the time; None for the variant."""
    seed: int = Field(default=42, ge=0, lt=2**63)
    """Seed of data order, initialization and sampling."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the frozen base and of the forward pass; the trained parts are fp32. If it is not given, bf16 for
    another base than the embedded one on a GPU."""
    output_root: str = "runs"
    """Folder in which the run's folder is made."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between two checkpoints."""
    checkpoint_keep: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept; from 2 on, a run can go on although the newest one is damaged."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two lines of metrics."""
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    optimization: OptimizationSettings = OptimizationSettings()
    retention: RetentionSettings = RetentionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    parallel: ParallelSettings = ParallelSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _sharded_processes_run_the_same_passes(self) -> StageAConfig:
        for name, asked in (
            ("retention.teacher_cache", self.retention.teacher_cache),
            ("data.length_buckets", self.data.length_buckets),
        ):
            if self.parallel.shard_base and asked:
                raise ValueError(f"{name}=false with parallel.shard_base, whose processes run the same forward passes")
        if self.parallel.shard_base and self.model.quantization != "none":
            raise ValueError("model.quantization=none with parallel.shard_base: quantized weights cannot be sharded")
        if self.parallel.shard_base and self.model.attention == "flash_attention_2":
            raise ValueError("model.attention=sdpa with parallel.shard_base, whose base is loaded on the host")
        return self

    @model_validator(mode="after")
    def _names_are_registered(self, info: ValidationInfo) -> StageAConfig:
        if not (info.context or {}).get(_OF_A_RUN):
            self.retention_variant()
        name, known = self.model.config, list(MODEL_CONFIGS)
        if name not in known:
            raise InputError("model.config", f"one of {', '.join(known)}", repr(name), _did_you_mean(name, known))
        return self

    def retention_variant(self) -> RetentionVariantConfig:
        """The variant that is named: a registered one, an installed package's, or one of ``variants_file``.

        Raises:
            InputError: there is no such variant, or the file cannot be read.
        """
        return find_variant(self.variant, self.variants_file)


def build_config(
    values: Mapping[str, Any],
    assignments: Mapping[str, str],
    where: str = "configuration",
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    of_a_run: bool = False,
) -> StageAConfig:
    """Validates nested ``values`` after setting dotted keys such as ``optimization.max_steps``.

    Args:
        values: settings as a file gives them.
        assignments: the text of each dotted key's value, read as YAML.
        where: what error messages name as the place.
        options: the value of each dotted key, taken as it is; these win over ``assignments``.
        of_a_run: whether the values are a run's own: its variant need not be known here, where it is only read about.

    Raises:
        InputError: a key is unknown (the nearest known one is named) or a value does not fit.
    """
    merged = current_settings(values, where)
    for dotted, value in ({key: _parse_value(key, text) for key, text in assignments.items()} | dict(options)).items():
        *sections, key = current_name(dotted).split(".")
        target: Any = merged
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                hint = "safe train --help-settings lists all"
                raise InputError(f"--set {dotted}", "a section before the dot", repr(section), hint)
        target[key] = value
    try:
        return StageAConfig.model_validate(merged, context={_OF_A_RUN: of_a_run})
    except ValidationError as error:
        raise _as_input_error(error, where) from error


def current_settings(values: Mapping[str, Any], where: str = "configuration") -> dict[str, Any]:
    """Nested settings by today's names, whichever version wrote them; a copy.

    Raises:
        InputError: a setting is given by its name and by an earlier one.
    """
    settings = deepcopy(dict(values))
    for name, section in _sections(StageAConfig):
        if isinstance(given := settings.get(name), Mapping):
            try:
                settings[name] = section.renamed(given)
            except ValueError as error:
                raise InputError(f"{where}: {name}", str(error), "both", "leave the earlier one out") from error
    return settings


def current_name(dotted: str) -> str:
    """Today's name of a dotted setting."""
    section, _, key = dotted.rpartition(".")
    owner = dict(_sections(StageAConfig)).get(section)
    return dotted if owner is None else f"{section}.{owner.earlier_names.get(key, key)}"


def _sections(config: type[Section]) -> list[tuple[str, type[Section]]]:
    annotations = ((name, field.annotation) for name, field in config.model_fields.items())
    return [(name, kind) for name, kind in annotations if isinstance(kind, type) and issubclass(kind, Section)]


def run_settings(described: Mapping[str, Any]) -> dict[str, Any]:
    """The settings alone of what a run's ``config.json`` says, as the run had them."""
    settings = {key: value for key, value in described.items() if key not in DERIVED}
    for section, key, before in _BEFORE_IT_WAS_A_SETTING:
        if isinstance(known := settings.get(section, {}), dict):
            settings[section] = {key: before} | known
    return settings


def read_config_file(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file of nested settings; a run's ``config.json`` is one, too.

    Raises:
        InputError: the file cannot be read or does not hold a mapping.
    """
    values = read_yaml_mapping(path, "settings")
    return run_settings(values) if DERIVED[0] in values else values


def known_keys(section: type[BaseModel] = StageAConfig, prefix: str = "") -> list[str]:
    """All settings as dotted keys."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += known_keys(annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _parse_value(key: str, text: str) -> Any:
    """A value in YAML; what YAML leaves as text, such as ``1e-3``, is converted to the setting's type afterwards.

    Settings that are text, such as paths and choices, are taken as they are: YAML would end ``/data #2`` at the space,
    and makes something else of ``no``, ``true`` and ``1e3``. So are whole numbers, since ``010`` is 8 in YAML.
    """
    kinds = _types_of(key)
    is_text = any(kind is str or get_origin(kind) is Literal for kind in kinds)
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    is_null = type(None) in kinds and text in ("null", "~", "")
    if (is_text and not is_quoted and not is_null) or (int in kinds and _WHOLE.fullmatch(text)):
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        hint = "put text with special characters in quotes"
        raise InputError(f"--set {key}", "a YAML value", repr(text), hint) from error


def _types_of(key: str) -> tuple[Any, ...]:
    """The types that a dotted setting may have; none if there is no such setting."""
    section: type[BaseModel] = StageAConfig
    *sections, last = current_name(key).split(".")
    for name in sections:
        annotation = section.model_fields[name].annotation if name in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ()
        section = annotation
    annotation = section.model_fields[last].annotation if last in section.model_fields else None
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _as_input_error(error: ValidationError, where: str) -> InputError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return InputError(
            f"{where}: {shortened(key)}", "a setting", "no such setting", _did_you_mean(key, known_keys())
        )
    if first["type"] == "tuple_type":
        return InputError(f"{where}: {key}", "a list", repr(first.get("input")), "write [...]")
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    place = f"{where}: {key}" if key else where
    hint = first.get("ctx", {}).get("hint", "correct the value; safe train --help-settings lists all")
    return InputError(place, expected, repr(first.get("input")), hint)


def _did_you_mean(name: str, known: list[str]) -> str:
    """The nearest name among those of the same section, or else the key whose last part is nearest."""
    section, dot, last = name.rpartition(".")
    siblings = {
        section + dot + key.removeprefix(section + dot).split(".")[0] for key in known if key.startswith(section)
    }
    by_last = {key.rpartition(".")[2]: key for key in reversed(known)}
    begun = [key for key in known if key.rpartition(".")[2].startswith(f"{last}_")]
    if begun and last not in by_last:  # lr, before what is nearest by its letters
        return f"did you mean {' or '.join(map(repr, begun))}?"
    found = nearest(name, siblings) or by_last.get(nearest(last, by_last) or "")
    listed = f"known are {', '.join(known)}" if len(known) <= _FEW else "safe train --help-settings lists all"
    return f"did you mean {found!r}?" if found else listed
