"""The metrics of answers in words: those of audio answers, and those of captions."""

from __future__ import annotations

from safe_train.metrics.captions import CIDER_D, FENSE, SPICE, SPIDER
from safe_train.metrics.exact_match import EXACT_MATCH
from safe_train.metrics.metric import Corpus, Metric
from safe_train.metrics.token_f1 import TOKEN_F1

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        EXACT_MATCH,
        TOKEN_F1,
        CIDER_D,
        SPICE,
        FENSE,
        SPIDER,
    )
}
"""Every metric by its name: settings, scoring, tables, the report and the model card read it."""


def find_metric(name: str) -> Metric:
    """The metric of results; of a name that is not registered, as another version may have written, its name alone."""
    return METRICS.get(name) or Metric(name, name, _score_unknown, for_answers=False)


def answer_metric_names() -> list[str]:
    """Names that ``evaluation.audio_metric`` may have, beside ``auto``."""
    return [name for name, metric in METRICS.items() if metric.for_answers]


def caption_metrics() -> list[Metric]:
    """What ``evaluation.caption_metrics`` computes, each after those that it is made of."""
    return [metric for metric in METRICS.values() if metric.for_captions]


def _score_unknown(_corpus: Corpus) -> list[float]:
    raise ValueError("expected a registered metric, got one that only results name")
