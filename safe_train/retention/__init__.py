"""Retention mechanisms: distillation, elastic weight consolidation and null-space projection, for any training loop.

Each mechanism is an object with the hooks of :class:`Mechanism`; :func:`build_mechanisms` composes those of a variant.
A loop needs a :class:`RetentionModel` (a student and its teacher on retention examples) and calls the hooks in this
order::

    stack.before_step(step, examples_seen)
    task_loss.backward();             stack.after_task_backward()
    stack.loss(batch).backward();     stack.after_retention_backward()
    clip;                             stack.before_optimizer_step(clip_coefficient)
    optimizer.step();                 stack.after_optimizer_step()
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe_train.retention.distillation import Distillation
    from safe_train.retention.ewc import ElasticWeightConsolidation
    from safe_train.retention.mechanism import AnswerStates, Mechanism, RetentionModel, RunLength, TrainingContext
    from safe_train.retention.null_space import NullSpaceProjection
    from safe_train.retention.registry import MECHANISMS
    from safe_train.retention.replay import Replay
    from safe_train.retention.stack import RetentionStack, build_mechanisms

__all__ = [
    "MECHANISMS",
    "AnswerStates",
    "Distillation",
    "ElasticWeightConsolidation",
    "Mechanism",
    "NullSpaceProjection",
    "Replay",
    "RetentionModel",
    "RetentionStack",
    "RunLength",
    "TrainingContext",
    "build_mechanisms",
]

_MODULES = {
    "MECHANISMS": "registry",
    "AnswerStates": "mechanism",
    "Distillation": "distillation",
    "ElasticWeightConsolidation": "ewc",
    "Mechanism": "mechanism",
    "NullSpaceProjection": "null_space",
    "RetentionModel": "mechanism",
    "Replay": "replay",
    "RetentionStack": "stack",
    "RunLength": "mechanism",
    "TrainingContext": "mechanism",
    "build_mechanisms": "stack",
}


def __getattr__(name: str) -> Any:
    """Imports torch at the first use of a name, so that the settings can be read without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
