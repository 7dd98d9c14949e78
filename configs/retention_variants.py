"""The retention variants of the ablation: which mechanisms keep vision-language behavior, and how strongly.

The total loss of a training step is

    audio loss + retention_loss_weight * (distillation_weight * KL + fisher_weight * EWC + replay_weight * replay loss)

so each weight is applied once. A new variant is one constant and one entry of ``RETENTION_VARIANTS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from safe_train.configs.lookup import look_up


@dataclass(frozen=True, kw_only=True)
class RetentionVariantConfig:
    """One arm of the ablation.

    Attributes:
        name: the registered name.
        description: one sentence for people.
        retention_loss_weight: common factor of the KL, the EWC and the replay term; 0 switches all three off.
        distillation_weight: weight of the KL divergence of the student, with audio attached, from the bypass.
        fisher_weight: weight of the EWC penalty, whose Fisher diagonal is the mean of squared per-sample gradients.
        enable_null_space: whether updates are kept out of the subspace that vision-language behavior depends on.
        null_space_rank: dimensions of that subspace for each parameter.
        null_space_min_samples: samples that are gathered before the subspace is first computed.
        null_space_refresh_interval: samples between two recomputations of the subspace.
        replay_weight: weight of the cross-entropy of the protected rows' own answers, with audio attached.
        extra_mechanisms: further mechanisms that are on, by the name under which they are registered, each with
            settings of its own.

    Raises:
        ValueError: a weight is negative or not finite, or a null-space setting is below 1.
    """

    name: str
    description: str
    retention_loss_weight: float
    distillation_weight: float
    fisher_weight: float
    enable_null_space: bool
    null_space_rank: int = 8
    null_space_min_samples: int = 128
    null_space_refresh_interval: int = 4000
    replay_weight: float = 0.0
    extra_mechanisms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Rejects weights and counts that no run could mean."""
        for name in ("retention_loss_weight", "distillation_weight", "fisher_weight", "replay_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{self.name}: {name} must be finite and at least 0, got {getattr(self, name)}")
        for name in ("null_space_rank", "null_space_min_samples", "null_space_refresh_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.name}: {name} must be at least 1, got {getattr(self, name)}")

    @property
    def kl_coefficient(self) -> float:
        """What the KL term is multiplied by in the total loss."""
        return self.retention_loss_weight * self.distillation_weight

    @property
    def fisher_coefficient(self) -> float:
        """What the EWC term is multiplied by in the total loss."""
        return self.retention_loss_weight * self.fisher_weight

    @property
    def replay_coefficient(self) -> float:
        """What the replay term is multiplied by in the total loss."""
        return self.retention_loss_weight * self.replay_weight

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """Names of the mechanisms that are on: ``KL``, ``Fisher``, ``null space``, ``replay`` and the extra ones."""
        switches = {
            "KL": self.kl_coefficient > 0,
            "Fisher": self.fisher_coefficient > 0,
            "null space": self.enable_null_space,
            "replay": self.replay_coefficient > 0,
        }
        return (*(mechanism for mechanism, is_on in switches.items() if is_on), *self.extra_mechanisms)

    def to_dict(self) -> dict[str, Any]:
        """The trainer's settings; ``compute_fisher_at_start`` is true exactly if ``fisher_weight`` is above 0.

        A variant without replay has no ``replay_weight`` in it and one without extra mechanisms names none, as in files
        of older runs.
        """
        replay = {"replay_weight": self.replay_weight} if self.replay_weight else {}
        extra = {"extra_mechanisms": {k: dict(v) for k, v in self.extra_mechanisms.items()}}
        return {
            "retention_loss_weight": self.retention_loss_weight,
            "distillation_weight": self.distillation_weight,
            "fisher_weight": self.fisher_weight,
            "enable_null_space": self.enable_null_space,
            "null_space_rank": self.null_space_rank,
            "null_space_min_samples": self.null_space_min_samples,
            "null_space_refresh_interval": self.null_space_refresh_interval,
            "compute_fisher_at_start": self.fisher_weight > 0,
            **replay,
            **(extra if self.extra_mechanisms else {}),
        }


NO_RETENTION = RetentionVariantConfig(
    name="no_retention",
    description="The audio loss alone: how much is forgotten when nothing is done about it.",
    retention_loss_weight=0.0,
    distillation_weight=0.0,
    fisher_weight=0.0,
    enable_null_space=False,
)

SOFT_RETENTION = RetentionVariantConfig(
    name="soft_retention",
    description="Answers are distilled from the bypass.",
    retention_loss_weight=1.0,
    distillation_weight=0.2,
    fisher_weight=0.0,
    enable_null_space=False,
)

FISHER_RETENTION = RetentionVariantConfig(
    name="fisher_retention",
    description="Distillation, and a quadratic penalty on moving the parameters that matter to the answers.",
    retention_loss_weight=1.0,
    distillation_weight=0.2,
    fisher_weight=0.1,
    enable_null_space=False,
)

NULLSPACE_RETENTION = RetentionVariantConfig(
    name="nullspace_retention",
    description="Distillation, and updates kept out of the subspace that the answers depend on.",
    retention_loss_weight=1.0,
    distillation_weight=0.2,
    fisher_weight=0.0,
    enable_null_space=True,
)

FULL_RETENTION = RetentionVariantConfig(
    name="full_retention",
    description="Distillation, quadratic penalty and null-space updates together.",
    retention_loss_weight=1.0,
    distillation_weight=0.2,
    fisher_weight=0.1,
    enable_null_space=True,
)

# The mechanisms one at a time, and the plain way that needs none of them.

FISHER_ONLY = RetentionVariantConfig(
    name="fisher_only",
    description="The quadratic penalty without distillation.",
    retention_loss_weight=1.0,
    distillation_weight=0.0,
    fisher_weight=0.1,
    enable_null_space=False,
)

NULLSPACE_ONLY = RetentionVariantConfig(
    name="nullspace_only",
    description="Null-space updates without distillation.",
    retention_loss_weight=0.0,
    distillation_weight=0.0,
    fisher_weight=0.0,
    enable_null_space=True,
)

REPLAY_ONLY = RetentionVariantConfig(
    name="replay_only",
    description="The protected rows' own answers are trained on with distractors; nothing is asked of the bypass.",
    retention_loss_weight=1.0,
    distillation_weight=0.0,
    fisher_weight=0.0,
    enable_null_space=False,
    replay_weight=0.2,
)

RETENTION_VARIANTS: Mapping[str, RetentionVariantConfig] = MappingProxyType(
    {
        "no_retention": NO_RETENTION,
        "soft_retention": SOFT_RETENTION,
        "fisher_retention": FISHER_RETENTION,
        "nullspace_retention": NULLSPACE_RETENTION,
        "full_retention": FULL_RETENTION,
        "fisher_only": FISHER_ONLY,
        "nullspace_only": NULLSPACE_ONLY,
        "replay_only": REPLAY_ONLY,
    }
)

# The overfitting ablation has names of its own; its soft_retention has always meant KL and Fisher together.
OVERFITTING_VARIANTS: Mapping[str, str] = MappingProxyType(
    {
        "no_retention": "no_retention",
        "soft_retention": "fisher_retention",
        "full_safe": "full_retention",
    }
)


def get_variant_config(name: str) -> RetentionVariantConfig:
    """The variant of that name.

    Raises:
        ValueError: the name is not registered; the message lists the known names and the nearest.
    """
    return look_up("retention variant", name, RETENTION_VARIANTS)


def list_variants(variants: Mapping[str, RetentionVariantConfig] | None = None) -> None:
    """Prints each variant with its description, the mechanisms that are on, and its retention weight.

    Args:
        variants: by name; by default those of ``RETENTION_VARIANTS``.
    """
    for name, variant in (RETENTION_VARIANTS if variants is None else variants).items():
        print(name)
        print(f"  {variant.description}")
        print(f"  mechanisms: {_describe_mechanisms(variant)}")
        print(f"  retention loss weight: {variant.retention_loss_weight:g}")


def _describe_mechanisms(variant: RetentionVariantConfig) -> str:
    settings = {
        "KL": f"{variant.kl_coefficient:g}",
        "Fisher": f"{variant.fisher_coefficient:g}",
        "null space": f"rank {variant.null_space_rank}, {variant.null_space_min_samples} samples",
        "replay": f"{variant.replay_coefficient:g}",
    }
    settings |= {
        name: ", ".join(f"{key} {value}" for key, value in own.items())
        for name, own in variant.extra_mechanisms.items()
    }
    return ", ".join(f"{mechanism} ({settings[mechanism]})" for mechanism in variant.mechanisms) or "none"
