"""Retention mechanisms: distillation, elastic weight consolidation and null-space projection, for any training loop.

Each mechanism is an object with the hooks of :class:`Mechanism`; :func:`build_mechanisms` composes those of a variant.
A loop needs a :class:`ProtectedModel` (a student and its teacher on protected rows) and calls the hooks in this order::

    stack.before_step(step)
    audio_loss.backward();            stack.after_audio_backward()
    stack.loss(batch).backward();     stack.after_retention_backward()
    clip;                             stack.before_optimizer_step(clip_coefficient)
    optimizer.step();                 stack.after_optimizer_step()
"""

from safe_train.retention.compose import RetentionStack, build_mechanisms
from safe_train.retention.distillation import Distillation
from safe_train.retention.elastic import ElasticWeightConsolidation
from safe_train.retention.mechanism import AnswerStates, Mechanism, ProtectedModel
from safe_train.retention.null_space import NullSpaceProjection

__all__ = [
    "AnswerStates",
    "Distillation",
    "ElasticWeightConsolidation",
    "Mechanism",
    "NullSpaceProjection",
    "ProtectedModel",
    "RetentionStack",
    "build_mechanisms",
]
