"""Evaluation: the base's answers first, then SAFE's under each condition on the same rows in the same batches.

Every answer is kept as a line of JSON (:mod:`~safe_train.evaluation.samples`), written batch by batch, so that an
evaluation that was cut off goes on where it stopped. The results (:mod:`~safe_train.evaluation.results`) are computed
from those lines alone.
"""

from safe_train.evaluation.base_answers import BaseAnswers, base_answers
from safe_train.evaluation.conditions import AUDIO_CONDITIONS, VL_CONDITIONS, Selection, select
from safe_train.evaluation.evaluator import Evaluator
from safe_train.evaluation.results import AnswerResult, AudioResult, DocumentResult, Evaluation

__all__ = [
    "AUDIO_CONDITIONS",
    "VL_CONDITIONS",
    "AnswerResult",
    "AudioResult",
    "BaseAnswers",
    "DocumentResult",
    "Evaluation",
    "Evaluator",
    "Selection",
    "base_answers",
    "select",
]
