"""Every setting as data: what ``safe train --help-settings`` prints, and the settings page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from safe_train.config import StageAConfig
from safe_train.configs.model_configs import MODEL_CONFIGS
from safe_train.configs.retention_variants import RETENTION_VARIANTS
from safe_train.data.settings import SourceName
from safe_train.settings import Section

_WORDS = {bool: "true or false", int: "integer", float: "number", str: "text"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_OR_NULL = " or null"
_REGISTERED = {"variant": tuple(RETENTION_VARIANTS), "model.config": tuple(MODEL_CONFIGS)}
"""Settings that are the name of something registered, and those names."""


@dataclass(frozen=True)
class SettingReference:
    """One setting, in words.

    Attributes:
        name: dotted, as ``--set`` takes it.
        kind: type and bounds, such as ``integer, at least 1``; without the choices.
        choices: the values that are allowed, if only some are.
        default: as JSON, which ``--set`` reads too.
        meaning: one or two sentences.
        earlier_names: what it was called in earlier versions, dotted; such files and commands are still read.
    """

    name: str
    kind: str
    choices: tuple[str, ...]
    default: str
    meaning: str
    earlier_names: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """What may be given: the choices with a bar between them, or the kind."""
        if not self.choices:
            return self.kind
        return " | ".join((*self.choices, "null") if self.is_optional else self.choices)

    @property
    def is_optional(self) -> bool:
        """Whether ``null`` may be given."""
        return self.kind.endswith(_OR_NULL)


def list_settings(section: type[Section] = StageAConfig, prefix: str = "") -> list[SettingReference]:
    """Describes every setting, in the order of the configuration."""
    listed: list[SettingReference] = []
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            listed += list_settings(annotation, f"{prefix}{name}.")
        else:
            earlier = tuple(prefix + old for old, new in section.earlier_names.items() if new == name)
            listed.append(_describe(prefix + name, field, earlier))
    return listed


def format_settings() -> str:
    """Every setting with its default, what is allowed, and its meaning, a line each."""
    return "\n".join(
        f"{setting.name} = {setting.default}    ({setting.allowed}) {setting.meaning}" for setting in list_settings()
    )


def _describe(name: str, field: FieldInfo, earlier_names: tuple[str, ...]) -> SettingReference:
    return SettingReference(
        name=name,
        kind=_kind(field),
        choices=_REGISTERED.get(name) or _named_sources(field) or tuple(_choices(field.annotation)),
        default=json.dumps(field.default),
        meaning=" ".join((field.description or "").split()),
        earlier_names=earlier_names,
    )


def _named_sources(field: FieldInfo) -> tuple[str, ...]:
    """The data sets that a setting may name, if it names one."""
    return next((source.choices() for source in field.metadata if isinstance(source, SourceName)), ())


def _choices(annotation: Any) -> Iterator[str]:
    """The values of all ``Literal`` in a type that is one, or a union of some."""
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _choices(member)


def _kind(field: FieldInfo) -> str:
    members = _members(field.annotation)
    words = dict.fromkeys(_word(member) for member in members if member is not NoneType)
    bounds = " and ".join(_bounds(field))
    return " or ".join(words) + (f", {bounds}" if bounds else "") + (_OR_NULL if NoneType in members else "")


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _word(annotation: Any) -> str:
    if get_origin(annotation) is tuple:
        item = get_args(annotation)[0]
        if isinstance(item, type) and issubclass(item, Section):
            return f"list of {{{', '.join(item.model_fields)}}}"
        return f"list of {' | '.join(_choices(item)) or _word(item)}"
    return "text" if get_origin(annotation) is Literal else _WORDS[annotation]


def _bounds(field: FieldInfo) -> Iterator[str]:
    for constraint in field.metadata:
        for attribute, words in _BOUNDS.items():
            if (bound := getattr(constraint, attribute, None)) is not None:
                yield f"{words} {bound if isinstance(bound, int) else f'{bound:g}'}"
        if (pattern := getattr(constraint, "pattern", None)) is not None:
            yield f"matching {pattern}"
