"""Evaluation: the base's answers first, then SAFE's under each condition on the same rows in the same batches.

Every answer is kept as a line of JSON (:mod:`~safe_train.evaluation.predictions`), written batch by batch, so that an
evaluation that was cut off goes on where it stopped. The results (:mod:`~safe_train.evaluation.results`) are computed
from those lines alone.
"""
