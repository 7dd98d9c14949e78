"""The positive control: adapters damaged on purpose, which a valid evaluation must reject."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.model.safe_model import FusionStatistics, SafeModel

_PROBE = 1e-3


def damage_fusions(
    model: SafeModel, encoder: Collator, examples: Sequence[Example], *, ratio: float, seed: int = 0
) -> None:
    """Replaces every fusion's output weights by Gaussian noise whose update is ``ratio`` times the hidden states' size.

    The update is linear in these weights, so a probe of small noise on up to 16 examples in silence gives the scale.

    Args:
        model: SAFE; its other parts stay as they were trained.
        encoder: encodes the examples.
        examples: VL examples to measure the hidden states on.
        ratio: ``|update| / |hidden|`` at each fused layer, Frobenius norms.
        seed: of the noise.
    """
    outputs = [fusion.get_parameter("output.weight") for fusion in model.fusions]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in outputs:
            weight.copy_(_PROBE * torch.randn(weight.shape, generator=generator))
    probe = list(examples[:16])
    statistics = model.statistics = FusionStatistics()
    with torch.no_grad():
        model.last_hidden_state(encoder.training_batch(probe).inputs, encoder.features_of(probe))
        model.statistics = None
        measured = [sum(layer) / len(probe) for layer in zip(*statistics.updates(), strict=True)]
        for weight, size in zip(outputs, measured, strict=True):
            weight.mul_(ratio / size)
