"""The retention variants that a run may name: registered ones, those of installed packages, those of a file.

A package brings variants as entry points; each loads a :class:`RetentionVariantConfig` of the entry point's name::

    [project.entry-points."safe_train.retention_variants"]
    strong_retention = "my_package.variants:STRONG_RETENTION"

A file is YAML, the fields of :class:`RetentionVariantConfig` by the variant's name::

    strong_retention:
      description: Distillation with five times the weight, and null-space updates.
      retention_loss_weight: 1.0
      distillation_weight: 1.0
      fisher_weight: 0.0
      enable_null_space: true
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from safe_train.configs import retention_variants
from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.errors import InputError, nearest
from safe_train.io.yaml_files import read_yaml_mapping

ENTRY_POINTS = "safe_train.retention_variants"
"""The group of entry points."""

_NAME = re.compile(r"[\w.-]+")  # it becomes part of the name of the run's folder


def find_variant(name: str, variants_file: str | Path | None = None) -> RetentionVariantConfig:
    """The variant of that name; of installed packages only the one that brings it is imported.

    Args:
        name: exactly as it is registered, installed or written in the file.
        variants_file: the file, if there is one.

    Raises:
        InputError: there is no such variant, it cannot be loaded, or two have one name.
    """
    stated, installed = _sources(variants_file)
    if name in stated:
        return stated[name]
    if name in installed:
        return _load(installed[name])
    names = [*stated, *installed]
    suggestion = nearest(name, names)
    hint = f"did you mean {suggestion!r}?" if suggestion else f"known are {', '.join(names)}"
    raise InputError("variant", f"one of {', '.join(names)}", repr(name), hint)


def known_variants(variants_file: str | Path | None = None) -> dict[str, RetentionVariantConfig]:
    """Every variant by name: registered ones, those of the file, those of installed packages.

    Raises:
        InputError: one cannot be loaded, or two have one name.
    """
    stated, installed = _sources(variants_file)
    return stated | {name: _load(entry_point) for name, entry_point in installed.items()}


def _sources(variants_file: str | Path | None) -> tuple[dict[str, RetentionVariantConfig], dict[str, EntryPoint]]:
    """Variants of registry and file, and entry points of those that are still to be imported.

    Raises:
        InputError: two have one name.
    """
    stated, installed = dict(retention_variants.RETENTION_VARIANTS), _installed()
    taken = dict.fromkeys(stated, "a registered variant")
    for name, entry_point in installed.items():
        _require_new(_place(entry_point), name, taken)
        taken[name] = _place(entry_point)
    for name, variant in _from_file(variants_file).items():
        _require_new(f"{variants_file}: {name}", name, taken)
        stated[name] = variant
    return stated, installed


def _require_new(where: str, name: str, taken: Mapping[str, str]) -> None:
    if name in taken:
        raise InputError(where, "a new name", f"that of {taken[name]}", "rename the variant")


@cache
def _installed() -> dict[str, EntryPoint]:
    """Entry points by name; what is installed does not change while a program runs."""
    found: dict[str, EntryPoint] = {}
    for entry_point in entry_points(group=ENTRY_POINTS):
        if entry_point.name in found:
            got = f"that of {_place(found[entry_point.name])}"
            raise InputError(_place(entry_point), "a new name", got, "remove one of the two packages")
        found[entry_point.name] = entry_point
    return found


def _load(entry_point: EntryPoint) -> RetentionVariantConfig:
    hint = "mend or remove the package"
    try:
        variant = entry_point.load()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(_place(entry_point), "a variant that can be imported", str(error), hint) from error
    if not isinstance(variant, RetentionVariantConfig):
        raise InputError(_place(entry_point), "a RetentionVariantConfig", type(variant).__name__, hint)
    if variant.name != entry_point.name:
        raise InputError(_place(entry_point), f"a variant of name {entry_point.name}", variant.name, hint)
    return variant


def _place(entry_point: EntryPoint) -> str:
    package = entry_point.dist.name if entry_point.dist else "a package"
    return f"retention variant {entry_point.name} of {package}"


def _from_file(variants_file: str | Path | None) -> dict[str, RetentionVariantConfig]:
    if variants_file is None:
        return {}
    described = read_yaml_mapping(Path(variants_file).expanduser(), "retention variants")
    return {name: _from_fields(f"{variants_file}: {name}", name, values) for name, values in described.items()}


def _from_fields(where: str, name: Any, values: Any) -> RetentionVariantConfig:
    """A variant as a file describes it.

    Raises:
        InputError: the name or a field is none, or a value does not fit.
    """
    from pydantic import TypeAdapter, ValidationError  # not needed for the registered variants' names

    known = [field.name for field in fields(RetentionVariantConfig) if field.name != "name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(where, "a name of letters, digits and _ . -", repr(name), "rename the variant")
    if not isinstance(values, dict):
        raise InputError(where, f"the fields {', '.join(known)}", type(values).__name__, "write field: value lines")
    for key in values:
        if key not in known:
            suggestion = nearest(str(key), known)
            hint = f"did you mean {suggestion!r}?" if suggestion else f"known are {', '.join(known)}"
            raise InputError(f"{where}: {key}", "a field of a retention variant", "no such field", hint)
    try:
        return TypeAdapter(RetentionVariantConfig).validate_python({"name": name, **values})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # a rule of the variant's own, whose message says what is wrong with which field
            problem = first["msg"].removeprefix("Value error, ")
            raise InputError(where, "a retention variant", problem, "correct the file") from error
        expected = first["msg"].removeprefix("Input should be ")
        got = repr(first["input"])
        if first["type"] == "missing":
            expected, got = "this field", "none"
        raise InputError(": ".join([where, *map(str, first["loc"])]), expected, got, "correct the file") from error
