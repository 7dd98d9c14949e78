"""The registry of retention mechanisms, read by trainers, estimate and report."""

from __future__ import annotations

from safe_train.configs.lookup import look_up
from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.retention.distillation import Distillation
from safe_train.retention.ewc import ElasticWeightConsolidation
from safe_train.retention.mechanism import Mechanism
from safe_train.retention.null_space import NullSpaceProjection
from safe_train.retention.replay import Replay

MECHANISMS: dict[str, type[Mechanism]] = {
    mechanism.name: mechanism
    for mechanism in (
        Distillation,
        Replay,
        ElasticWeightConsolidation,
        NullSpaceProjection,
    )
}
"""Every mechanism by its name, in the order in which they act."""


def enabled_mechanisms(variant: RetentionVariantConfig) -> list[type[Mechanism]]:
    """The mechanisms that a variant switches on, in the order in which they act.

    Raises:
        ValueError: the variant names one that is not registered.
    """
    names = [name for name in variant.mechanisms if look_up("retention mechanism", name, MECHANISMS)]
    return [mechanism for name, mechanism in MECHANISMS.items() if name in names]
