"""The registry: names, labels, and what settings accept."""

import pytest
from pydantic import ValidationError

from safe_train.evaluation.settings import EvaluationSettings
from safe_train.metrics.metric import Corpus, Metric
from safe_train.metrics.registry import METRICS, answer_metric_names, caption_metrics, find_metric


def test_names_and_labels_are_unique():
    assert [metric.name for metric in METRICS.values()] == list(METRICS)
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)


def test_a_metric_comes_after_those_that_it_is_made_of():
    assert [metric.label for metric in caption_metrics()] == ["CIDEr-D", "SPICE", "FENSE", "SPIDEr"]


def test_settings_accept_what_scores_answers(monkeypatch):
    assert answer_metric_names() == ["exact_match", "token_f1", "cider_d"]
    with pytest.raises(ValidationError, match="'auto', 'exact_match', 'token_f1' or 'cider_d'"):
        EvaluationSettings(audio_metric="spice")
    monkeypatch.setitem(METRICS, "words", Metric("words", "words", lambda corpus: []))
    assert EvaluationSettings(audio_metric="words").audio_metric == "words"


def test_a_metric_that_only_results_name_is_shown_by_its_name_and_scores_nothing():
    unknown = find_metric("bleu")
    assert (unknown.label, unknown.is_share) == ("bleu", True)
    with pytest.raises(ValueError, match="registered metric"):
        unknown.shares(Corpus(["a"], [["a"]]))
    assert find_metric("token_f1") is METRICS["token_f1"]
