"""Which runs are one variant with several seeds: those with the same name and the same settings."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from safe_train.config import StageAConfig
from safe_train.configs.retention_variants import RETENTION_VARIANTS
from safe_train.report.runs import LeftOut, Run, StoredEvaluation, weight

_OF_THE_RUN = (
    "seed", "label", "device", "output_root", "variants_file", "checkpoint_every", "log_every", "evaluation",
    "tracking",
)  # fmt: skip
"""Settings in which the runs of one variant may differ; of those of the evaluation all but the margin."""


@dataclass(frozen=True)
class Member:
    """A run in its variant, with the evaluation that counts there.

    Attributes:
        run: the run.
        evaluation: of its trained parts, or of the damaged ones in a positive control.
    """

    run: Run
    evaluation: StoredEvaluation

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.config.seed


@dataclass(frozen=True)
class VariantRuns:
    """The runs of a variant.

    Attributes:
        name: unique in a report.
        variant: the retention variant.
        damage: above 0 in a positive control.
        members: by seed, one each.
    """

    name: str
    variant: str
    damage: float
    members: list[Member]


def settings(config: StageAConfig) -> dict[str, Any]:
    """The settings that make a variant, dotted."""
    kept = {key: value for key, value in config.model_dump(mode="json").items() if key not in _OF_THE_RUN}
    return _flatten(kept) | {"evaluation.margin": config.evaluation.margin}


def _variant_settings(run: Run) -> dict[str, Any]:
    """The settings, and what a variant of a file was: two files may have one name for two variants."""
    variant = run.described["effective"].get("retention_variant", {}) if run.config.variants_file else {}
    return settings(run.config) | {f"variant.{key}": value for key, value in variant.items()}


def group_runs(runs: Sequence[Run]) -> tuple[list[VariantRuns], list[LeftOut]]:
    """Variants in the order of the registry of variants, positive controls last.

    Of two runs with the same settings and seed the one whose evaluation has more examples counts, of equal ones the one
    with more conditions, and of these the newer; the other is left out.
    """
    by_arm: dict[tuple[str, str], dict[int, Run]] = defaultdict(dict)
    left_out: list[LeftOut] = []
    for run in sorted(runs, key=lambda run: weight(run.evaluation)):
        variant = by_arm[_base_name(run), json.dumps(_variant_settings(run))]
        if run.config.seed in variant:
            older = variant[run.config.seed].folder
            left_out.append(
                LeftOut(str(older), f"the same settings and seed as {run.folder}, whose evaluation is larger or newer")
            )
        variant[run.config.seed] = run
    groups: list[VariantRuns] = []
    for (base_name, _settings), by_seed in by_arm.items():
        members = [by_seed[seed] for seed in sorted(by_seed)]
        alike = [next(iter(variant.values())) for (other, _), variant in by_arm.items() if other == base_name]
        name, variant = base_name + _distinction(members[0], alike), members[0].config.variant
        groups.append(VariantRuns(name, variant, 0.0, [Member(run, run.evaluation) for run in members]))
        for damage in sorted({control.damage for run in members for control in run.controls}):
            damaged = [Member(run, c) for run in members for c in run.controls if c.damage == damage]
            groups.append(VariantRuns(f"{name}, damaged by {damage:g}", variant, damage, damaged))
    order = list(RETENTION_VARIANTS)
    groups.sort(key=lambda group: (group.damage > 0, _place(order, group.variant), group.name))
    return groups, left_out


def _base_name(run: Run) -> str:
    return run.config.label or run.config.variant


def _distinction(run: Run, alike: Iterable[Run]) -> str:
    """The settings by which a run differs from others of its name, those with default values left out."""
    all_settings = [_variant_settings(other) for other in alike]
    own, default = _variant_settings(run), settings(StageAConfig())
    differing = [key for key in own if len({json.dumps(other.get(key)) for other in all_settings}) > 1]
    told = [f"{key.rpartition('.')[2]} {_word(own[key])}" for key in differing if own[key] != default.get(key)]
    return f" ({', '.join(told)})" if told else ""


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
