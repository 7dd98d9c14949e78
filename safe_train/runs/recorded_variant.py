"""Checks that a run's retention variant is still the one that it started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safe_train.config import StageAConfig
from safe_train.errors import InputError
from safe_train.io.files import read_object
from safe_train.retention.stack import resolve_variant
from safe_train.runs.layout import RunFolder

_ADDED_LATER = {"replay_weight": 0.0, "extra_mechanisms": {}}  # not written where they are off


def require_same_variant(folder: Path, config: StageAConfig) -> None:
    """Compares the variant's values, as file, package or registry have them now, with those in ``config.json``.

    Raises:
        InputError: a value is another one, or there is no such variant any more.
    """
    path = RunFolder(folder).config
    described = read_object(path, "the configuration of a run", "name a run folder")
    recorded = _variant_of(described)
    variant = resolve_variant(config.retention_variant(), config.retention)
    if recorded is None:
        return
    now, then = _ADDED_LATER | variant.to_dict(), _ADDED_LATER | recorded
    changed = [f"{key} {now[key]} in place of {then[key]}" for key in now if key in then and now[key] != then[key]]
    if changed:
        where = f"{config.variants_file or 'variant'}: {config.variant}"
        hint = "restore the variant, or start a new run"
        raise InputError(where, f"what {path} recorded", ", ".join(changed), hint)


def _variant_of(described: dict[str, Any]) -> dict[str, Any] | None:
    effective = described.get("effective")
    recorded = effective.get("retention_variant") if isinstance(effective, dict) else None
    return recorded if isinstance(recorded, dict) else None
