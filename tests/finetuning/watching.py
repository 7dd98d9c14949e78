"""Callbacks that watch a training: the divergence of whole models, and the optimizer's steps."""

import torch
import torch.nn.functional as F
from transformers import (
    TrainerCallback,
)

from safe_train.finetuning.rows import RetentionBatch
from tests.finetuning.tiny_text import (
    PROTECTED,
    collate,
    text_model,
)


class Updates(TrainerCallback):
    """The optimizer's steps, as they are left."""

    def __init__(self, linears):
        self.linears, self.found = linears, []

    def weights(self):
        return {name: module.weight.detach().clone() for name, module in self.linears.items()}

    def on_pre_optimizer_step(self, *_args, **_options):
        self.before = self.weights()

    def on_optimizer_step(self, *_args, **_options):
        self.found.append({name: after - self.before[name] for name, after in self.weights().items()})


def share_inside(update, bases):
    inside = sum((update[n].flatten() @ b.vectors).double().square().sum() for n, b in bases.items())
    return float((inside / sum(update[n].double().square().sum() for n in bases)).sqrt())


class EveryDivergence(TrainerCallback):
    """At each step the KL of the retention examples, by the whole models' logits."""

    def __init__(self, model, original=None):
        self.model, self.found, self.original = model, [], original or text_model(adapter=False).eval()

    def on_step_begin(self, *_args, **_options):
        self.found.append(self.now())

    def now(self):
        batch, was_training = RetentionBatch.of(collate(PROTECTED), torch.device("cpu")), self.model.training
        with torch.no_grad():
            old, new = (m.eval()(**batch.inputs).logits for m in (self.original, self.model))
        self.model.train(was_training)
        length = old.shape[1]  # trained prompts come first
        old, new = (logits[:, -length:][batch.rows, batch.positions].double().log_softmax(-1) for logits in (old, new))
        return F.kl_div(new, old, reduction="batchmean", log_target=True).item()
