"""A retention mechanism that the package does not have, as somebody would add it."""

from typing import ClassVar

from safe_train.configs.retention_variants import RetentionVariantConfig
from safe_train.retention.mechanism import Calibration, Mechanism, MetricInfo, gradient_of


class L2Anchor(Mechanism):
    """Adds ``weight / 2 * |theta - theta*|^2``, theta* the weights at its calibration: L2 regularization to them."""

    name = "L2 anchor"
    needs_linears = True
    shown_metrics: ClassVar = (MetricInfo("anchor", "squared distance", in_progress=True),)

    def __init__(self, linears, batches, model, weight):
        self.linears, self.batches, self.model, self.weight, self.anchors = linears, batches, model, weight, {}

    @classmethod
    def resolve(cls, variant, settings, length):
        own = variant.extra_mechanisms.get(cls.name, {"weight": 0.0})
        return {"anchor_coefficient": settings.retention_scale * variant.retention_loss_weight * own["weight"]}

    @classmethod
    def from_variant(cls, variant, settings, context):
        weight = cls.resolve(variant, settings, context.length)["anchor_coefficient"]
        return cls(context.linears, context.batches, context.model, weight)

    def calibration(self, length):
        return Calibration(num_examples=8, count=1)

    def calibrate(self, batches=None):
        for batch in (batches or self.batches)(8):  # a forward pass, so that it costs something
            self.model.student(batch)
        self.anchors = {name: module.weight.detach().clone() for name, module in self.linears.items()}

    def before_step(self, step, examples_seen):
        if self.calibrates and not self.anchors:
            self.calibrate()

    def after_retention_backward(self):
        for name, anchor in self.anchors.items():
            gradient_of(self.linears[name].weight).add_(self.linears[name].weight.detach() - anchor, alpha=self.weight)
        self._acted = True

    def metrics(self):
        pairs = ((self.linears[name].weight.detach(), anchor) for name, anchor in self.anchors.items())
        return {"anchor": sum((weight - anchor).square().sum().item() for weight, anchor in pairs)}

    def state_dict(self):
        return dict(self.anchors)

    def load_state_dict(self, state):
        self.anchors = dict(state)


PROBE = RetentionVariantConfig(
    name="probe", description="Close to the weights at the start.", retention_loss_weight=2.0,
    distillation_weight=0.0, fisher_weight=0.0, enable_null_space=False,
    extra_mechanisms={"L2 anchor": {"weight": 1.5}},
)  # fmt: skip
