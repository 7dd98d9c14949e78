"""Evaluation: the base's answers first, then SAFE's under each condition on the same examples in the same batches.

Every answer is stored as a line of JSON (:mod:`~safe_train.evaluation.predictions`), written batch by batch, so that an
interrupted evaluation resumes where it stopped. The results (:mod:`~safe_train.evaluation.results`) are computed only
from those lines.
"""
